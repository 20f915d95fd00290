from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from sr_deploy.cli import main
from sr_deploy.imaging.convert import to_image, to_nchw
from sr_deploy.model import open_model

WORDS = ("--model", "net.safetensors", "--backend", "torch")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, write_gentle_network: Callable[[Path, int, int], Path]) -> Path:
    """A network near bicubic, so that no guard objects, and a clip of eight frames without loss."""
    folder = tmp_path_factory.mktemp("video")
    write_gentle_network(folder / "net.safetensors", 8, 2)
    y, x = np.mgrid[:40, :64]
    with av.open(str(folder / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(5))
        stream.width, stream.height, stream.pix_fmt = 64, 40, "bgr0"
        for number in range(8):
            planes = [128 + 100 * np.sin((x + 9 * number) / 12), 2 * x, 4 * y + 8 * number]
            pixels = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("net.safetensors", "in.mkv"):
        (tmp_path / name).symlink_to(prepared / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_rgb(path: str | Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_every_frame_is_what_the_network_gives(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "in.mkv", "out.mkv", *WORDS, "--codec", "ffv1", "--segment", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "model    net.safetensors"
    assert printed[2].startswith("out.mkv: 8 frames, 64x40 to 128x80, ffv1 bgr0, ")
    assert printed[3].startswith("work     decode ")
    network = open_model(here / "net.safetensors").load_network()
    for lr, sr in zip(read_rgb("in.mkv"), read_rgb("out.mkv"), strict=True):
        with torch.inference_mode():
            expected = to_image(network(torch.from_numpy(to_nchw(lr))).numpy())
        assert np.array_equal(sr, expected)


def test_json_says_how_it_was_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--crf", "30", "--pixel-format", "yuv420p", "--encoder-option", "preset=ultrafast", "--scale", "1.5"]
    assert main(["upscale", "in.mkv", "out.mp4", *WORDS, *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    options = {"chroma_sample_location": "left", "crf": "30", "preset": "ultrafast"}
    document["output"]["options"].pop("x264-params", None)  # of some processors
    assert document["output"] == {
        "width": 96, "height": 60, "pixel_format": "yuv420p", "codec": "h264", "options": options
    }  # fmt: skip
    assert (document["frames"], document["resumed"], document["duplicates"]) == (8, 0, 0)
    assert (document["damage"], document["stopped"], document["scale"]) == (None, False, 2)
    assert document["notes"] == ["bgr0 becomes yuv420p"]
    assert document["limited_by"] in document["stages"]


def test_damaged_videos_end_with_1_and_name_what_was_recovered(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (here / "in.mkv").read_bytes()
    (here / "cut.mkv").write_bytes(content[: len(content) * 4 // 10])
    assert main(["upscale", "cut.mkv", "out.mkv", *WORDS]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert "cut.mkv is damaged: it ends after 0." in line
    assert "what was recovered is in out.partial.mkv: " in line
    assert not (here / "out.mkv").exists()
    assert len(read_rgb("out.partial.mkv")) == int(line.rsplit(" ", 2)[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.mkv", "out.png"], "out.png must end in .mkv, .mp4, .m4v, .mov, .webm to hold a video"),
        (["in.mkv", "out.mkv", "--encoder-option", "slow"], "takes NAME=VALUE, as in preset=slow, not 'slow'"),
        (["none.mkv", "out.mkv"], "none.mkv does not exist; give a video"),
        (["in.mkv", "out.mkv", "--quality", "90"], "--quality, --format and --size are not for videos: see --crf"),
        (["in.png", "out.png", "--crf", "20"], "--crf is for videos, and in.png is none; leave it out"),
        (["-", "-", "--format", "y4m", "--codec", "h264"], "--codec is for videos, and - is none; leave it out"),
        (["-", "out.mkv"], "a stream goes from - (stdin) to - (stdout), so --json cannot use stdout; leave --json out"),
        (["-", "-", "--json", "--format", "y4m"], "a stream goes from - (stdin) to - (stdout)"),
        (["-", "-"], "a stream is y4m or rgb24: say which with --format, not None"),
    ],
)
def test_wrong_words_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], words, message) -> None:
    assert main(["upscale", *words, *WORDS]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_stdin_to_stdout(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.stack(read_rgb("in.mkv")[:3])
    target = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(frames.tobytes())))
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=target, isatty=lambda: False))
    assert main(["upscale", "-", "-", "--format", "rgb24", "--size", "64x40", *WORDS]) == 0
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert "3 frames from 64x40 to 128x80, " in capsys.readouterr().err
    assert main(["upscale", "in.mkv", "out.mkv", *WORDS, "--codec", "ffv1"]) == 0
    assert target.getvalue() == np.stack(read_rgb("out.mkv")[:3]).tobytes()


def test_pipes_between_processes(here: Path) -> None:
    head = b"YUV4MPEG2 W64 H40 F25:1 Ip A1:1 C444\n"
    frame = b"FRAME\n" + np.full((3, 40, 64), 120, np.uint8).tobytes()
    words = [sys.executable, "-m", "sr_deploy", "upscale", "-", "-", "--format", "y4m", *WORDS]
    done = subprocess.run(words, input=head + 2 * frame, capture_output=True, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"YUV4MPEG2 W128 H80 F25:1 Ip A1:1 C444\nFRAME\n")
    assert len(done.stdout) == len(head) + 1 + 2 * (6 + 3 * 128 * 80)
    assert b"2 frames from 64x40 to 128x80" in done.stderr
