"""A disk that fills ends a job at once: one line says so, what is finished is kept, and counts the next time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.imaging.codec import write_image
from sr_deploy.run_folder import list_checkpoints

PICTURES = 24
FRAMES = 120
FULL = "the disk is full; free some space or choose another folder"
UPSCALE = ("--model", "small-x2", "--backend", "onnxruntime")  # no torch, whose import takes longer than all else
# A disk of its own of so many bytes at `small`, and what is on it afterwards at `kept`.
_ON_A_SMALL_DISK = """
mkdir -p small kept && mount -t tmpfs -o size="$SIZE" tmpfs small || exit 77
[ -z "$FILL" ] || head -c "$FILL" /dev/zero > small/zero
"$@"
code=$?
cp -a small/. kept
exit $code
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Pictures and a video that compress badly."""
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("disk")

    def draw(number: int, height: int, width: int) -> np.ndarray:
        return np.random.default_rng(number).integers(60, 190, (height, width, 3), np.uint8)

    for number in range(PICTURES):
        write_image(folder / "in" / f"{number:02}.png", draw(number, 64, 64))
    write_image(folder / "large.png", draw(0, 1600, 300))
    with av.open(str(folder / "in.mkv"), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"crf": "10", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(draw(number, 64, 96), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return folder


@pytest.fixture
def run_on_small_disk(prepared: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of sr-deploy whose `small` has so many bytes; what it left there is in `kept` then."""

    def run(size: str, *words: str, fill: str = "") -> subprocess.CompletedProcess[str]:
        return enter(size, fill, sys.executable, "-m", "sr_deploy", *words)

    def enter(size: str, fill: str, *command: str) -> subprocess.CompletedProcess[str]:
        alone = ["unshare", "-rm", "sh", "-c", _ON_A_SMALL_DISK, "sh", *command]
        environment = {**os.environ, "SIZE": size, "FILL": fill}
        return subprocess.run(alone, cwd=tmp_path, text=True, capture_output=True, check=False, env=environment)

    if sys.platform != "linux":
        pytest.skip("Linux alone has mount namespaces")
    try:
        probe = enter("64k", "", "true")
    except FileNotFoundError:
        pytest.skip("there is no unshare here; on Debian: apt-get install util-linux")
    if probe.returncode:
        pytest.skip(f"no disk can be mounted here: {' '.join(probe.stderr.split())}")
    for path in prepared.iterdir():
        if path.is_dir():
            (tmp_path / path.name).symlink_to(path)
        else:
            os.link(path, tmp_path / path.name)
    return run


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_a_folder_job_ends_and_its_next_run_goes_on(run_on_small_disk, tmp_path, device):
    words = ("upscale", "in", "small/out", *UPSCALE, "--device", device, "--json")
    done = run_on_small_disk("400k", *words)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert 4 <= len(document["written"]) < 10
    assert 1 <= len(document["failed"]) <= 2
    assert all(FULL in failure["reason"] for failure in document["failed"])
    assert len(document["written"]) + len(document["failed"]) + len(document["left"]) == PICTURES
    kept = {path.name for path in (tmp_path / "kept" / "out").glob("*.png")}
    assert kept == {Path(file["target"]).name for file in document["written"]}
    assert not list((tmp_path / "kept").rglob(".partial-*"))
    again = subprocess.run(
        [sys.executable, "-m", "sr_deploy", "upscale", "in", "kept/out", *UPSCALE, "--device", device, "--json"],
        cwd=tmp_path, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert {Path(path).name for path in json.loads(again.stdout)["skipped"]} == kept


def test_a_picture_by_rows_ends_before_its_last_row(run_on_small_disk, tmp_path):
    done = run_on_small_disk("400k", "upscale", "large.png", "small/out.png", *UPSCALE, "--stream", "--tile", "64")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: cannot write small/out.png: {FULL}"
    assert "90 %" not in done.stderr
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_video_keeps_its_segments(run_on_small_disk, tmp_path):
    done = run_on_small_disk("400k", "upscale", "in.mkv", "small/out.mkv", *UPSCALE, "--segment", "10")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f".packets: {FULL}")
    assert "90 %" not in done.stderr
    assert len(list((tmp_path / "kept" / ".out.mkv.sr-deploy").glob("segment-*.json"))) >= 1


@pytest.mark.parametrize("free", [0, 4, 8, 12])
def test_a_disk_that_is_full_from_the_start_is_said_to_be(run_on_small_disk, tmp_path, free):
    done = run_on_small_disk("64k", "upscale", "in.mkv", "small/out.mkv", *UPSCALE, fill=f"{64 - free}k")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(FULL)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["zero"]


def test_a_training_keeps_its_checkpoints(run_on_small_disk, tmp_path):
    settings = (
        *("network.features=32", "network.blocks=4", "data.batch=2", "data.patch_size=32", "precision.autocast=off"),
        *('data.training=["astronaut"]', 'data.held_out=["chelsea"]', "precision.channels_last=false"),
        *("run.steps=2000", "run.checkpoint_every=5", "run.validate_every=2000", "run.preview_every=2000"),
        "run.keep_checkpoints=100",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    done = run_on_small_disk("2M", "train", "--out", "small/run", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(FULL)
    kept = list_checkpoints(tmp_path / "kept" / "run")
    assert [step for step, _ in kept] == [5 * number for number in range(1, len(kept) + 1)]
    assert len(kept) >= 1
    assert not list((tmp_path / "kept").rglob(".*"))
