"""Files and folders of every name that Linux allows, through the commands."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sr_deploy.cli import main
from sr_deploy.deps import is_installed
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.train.recipe import read_run_recipe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")

BYTES = os.fsdecode(b"caf\xe9")
NAMES = [
    *("{x}z", "D{x}z[b]", "[/]"[:1] + "red]", "%s%d", "$(touch x)", "a b'c\"d", "写真 😀", "back\\slash"),
    *("a\x1b[31mb", "\u202egnp", "n\nl", BYTES),
]
NETWORK = ("--model", "net.safetensors", "--backend", "torch")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, write_gentle_network: Callable[[Path, int, int], Path]) -> Path:
    """A network near bicubic, and a clip of three frames."""
    folder = tmp_path_factory.mktemp("names")
    write_gentle_network(folder / "net.safetensors", 8, 2)
    write_clip(folder / "clip", 3)
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(prepared / "net.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(path: Path, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:24, :32]
    image = np.stack([8 * x, 10 * y, 4 * x + 3 * y + seed], axis=-1).astype(np.uint8)
    write_image(path, image)
    return image


def write_clip(path: Path, frames: int) -> None:
    y, x = np.mgrid[:32, :32]
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(5))
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
        for number in range(frames):
            pixels = np.stack([8 * x, 8 * y, 4 * x + 4 * y + 9 * number], axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def count_frames(path: Path) -> int:
    with path.open("rb") as stream, av.open(stream) as container:
        return sum(1 for _ in container.decode(video=0))


def assert_legible(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert not set(text) & set("\x1b\u202e\udce9")
    return captured.out


def test_pictures_of_a_folder_and_the_folder_itself(here, capsys):
    source, target = here / f"D{{x}}z[b]{BYTES}", Path(f"out%s[b]{BYTES}")
    for number, name in enumerate(NAMES):
        draw(source / f"{name}.png", number)
    assert main(["upscale", source.name, str(target), *NETWORK]) == 0
    assert f"out%s[b]caf\\xe9: {len(NAMES)} written" in assert_legible(capsys)
    assert {path.name for path in target.glob("*.png")} == {f"{name}.png" for name in NAMES}
    assert main(["upscale", source.name, str(target), *NETWORK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sorted(document["skipped"]) == sorted(str(target / f"{name}.png") for name in NAMES)
    for name in NAMES:
        one = here / "one" / f"{name}.tif"
        assert main(["upscale", f"{source.name}/{name}.png", str(one), *NETWORK]) == 0
        assert (read_image(one) == read_image(target / f"{name}.png")).all()
    assert_legible(capsys)


@pytest.mark.parametrize("name", ["a[/]b/{x}z.png", "D{x}z", "[/]/[bold]{}%d.png"])
def test_the_progress_bar_of_a_terminal_shows_any_name(here, name):
    source = here / name
    draw(source if source.suffix else source / "[/]" / "{y}.png")
    master, slave = pty.openpty()
    target = "out.png" if source.suffix else "out"
    words = [sys.executable, "-m", "sr_deploy", "upscale", name, target, *NETWORK]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(words, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    text = b""
    while select.select([master], [], [], 120)[0]:
        try:
            read = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        text += read
    os.close(master)
    assert process.wait() == 0, text.decode()
    assert b"Traceback" not in text
    assert source.name in text.decode()
    assert [path.suffix for path in here.glob("out*")] == [Path(target).suffix]


@pytest.mark.slow
def test_a_checkpoint_whose_name_is_no_utf8_is_exported_and_what_comes_of_it_runs(here, capsys):
    os.rename("net.safetensors", f"{BYTES}.safetensors")
    assert main(["export", f"{BYTES}.safetensors", "--backend", "none"]) == 0
    manifest = json.loads(Path("deployments/caf_/bundle.json").read_text())
    assert (manifest["name"], manifest["source"]["file"]) == ("caf_", "caf\ufffd.safetensors")
    bundle = f"{BYTES}/{BYTES}"
    Path(BYTES).mkdir()
    os.rename("deployments/caf_", bundle)
    assert main(["verify", bundle, "--html", f"{BYTES}.html", "--backend", "onnxruntime"]) == 0
    assert "caf\\xe9" in Path(f"{BYTES}.html").read_text(encoding="utf-8")
    assert main(["info", bundle, "--layers"]) == 0
    assert main(["export", bundle, "--backend", "none", "--no-rewrite", "--out", f"back\\slash{BYTES}"]) == 0
    draw(here / "a.png")
    assert main(["upscale", "a.png", "b.png", "--model", f"back\\slash{BYTES}", "--backend", "onnxruntime"]) == 0
    assert_legible(capsys)


def test_an_onnx_file_whose_name_is_no_utf8_runs(here, exported, capsys):
    model = f"{BYTES}.onnx"
    shutil.copy(exported("compact-x4").path, model)
    draw(here / "a.png")
    results = []
    for backend in ("onnxruntime", "openvino"):
        result = f"{BYTES}-{backend}.png"
        assert main(["upscale", "a.png", result, "--model", model, "--backend", backend]) in (0, 1)
        results.append(Path(result).exists())
    # The network is not trained, so that a guard may object to its output; a name is never what keeps it from running.
    assert "UTF-8" not in assert_legible(capsys)
    assert main(["info", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == model
    assert main(["verify", model, "--html", f"{BYTES}.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"][0]["artifact"]["file"] == "caf\ufffd.onnx"
    if is_installed("tensorrt_rtx"):
        profile = "t=1x16x16,1x16x16,1x32x32"
        words = ["--backend", "tensorrt-rtx", "--compute-capability", "sm89", "--profile", profile]
        assert main(["build", model, *words]) == 0
        assert len(list(Path(f"{BYTES}.engines").rglob("*.engine"))) == 1


@pytest.mark.parametrize("folder", ["ph 😀", 'a"b\\c', "tab\there \x7f", "[table]\n#", "a{x}=b"])
def test_photographs_of_a_folder_of_any_name_are_trained_on(here, folder):
    for name in ("a", BYTES):
        write_image(here / folder / f"{name}.png", np.random.default_rng(0).integers(0, 255, (48, 52, 3), np.uint8))
    small = ["network.features=8", "network.blocks=1", "data.patch_size=32", "data.batch=2", "run.steps=2",
             "precision.autocast=off", "precision.channels_last=false", "data.validation_folder=held"]  # fmt: skip
    write_image(here / "held" / f"{BYTES}.png", np.zeros((48, 52, 3), np.uint8))
    out = f"run {BYTES}"
    words = ["train", "--data", folder, "--out", out, *(word for change in small for word in ("--set", change))]
    assert main(words) == 0
    assert read_run_recipe(Path(out, "recipe.toml")).data.folder == str(here / folder)
    assert main(["train", "--resume", "--out", out, "--set", "run.steps=3"]) == 0


def test_a_folder_that_no_recipe_can_name_is_refused_in_a_line(here, capsys):
    (here / BYTES).mkdir()
    assert main(["train", "--data", BYTES]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "caf\\xe9 has bytes that are no UTF-8, and TOML files hold nothing else; rename it" in error


VIDEOS = [
    *("Movie: Part 1", "file:plain", "http://x", "concat:a|b", "subfile,,start,0,end,0,,:x", "crypto:x", "pipe:0"),
    *("data:x", "{x}%03d[b]", "a?b#c%20", "n\nl", BYTES, f"{BYTES}/x{BYTES}", "cache:file:plain"),
]


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_is_the_file_of_that_name_and_no_other(here, prepared, name, capsys):
    write_clip(here / "plain.mkv", 5)
    source, target = Path(f"{name}.mkv"), Path(f"to {name}.mkv")
    source.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(prepared / "clip", source)
    assert main(["upscale", str(source), str(target), *NETWORK, "--codec", "ffv1"]) == 0
    assert count_frames(target) == 3
    target.unlink()
    quick = Path(f"to {name}.mp4")
    assert main(["upscale", str(source), str(quick), *NETWORK]) == 0
    assert count_frames(quick) == 3
    assert_legible(capsys)


def write_hostile_graph(path: Path) -> None:
    """Enlarges by repeating pixels; every name and text in it holds what a terminal would act on."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((12, 3, 3, 3), np.float32)
    weights[np.arange(12), np.arange(12) // 4, 1, 1] = 1
    lr, w, out = "lr\x1b]0;x\x07", "w\x1b[31m", "sr\u202e"
    convolution = helper.make_node("Conv", [lr, w], ["c\x9b"], name="\x1b[2Jconv\u202e", pads=[1, 1, 1, 1])
    shuffle = helper.make_node("DepthToSpace", ["c\x9b"], [out], name="up\n\x1b[5m", blocksize=2, mode="CRD")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, f"h\x1b{name}", f"w\r{name}"])
        for name in (lr, out)
    ]
    graph = helper.make_graph(
        [convolution, shuffle], "g\x1b[5m", values[:1], values[1:], [numpy_helper.from_array(weights, w)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="\x1b[31m")
    model.ir_version = 9
    for key, value in (("k\x1b[1m\n", "v\u202e\x9b"), ("long", "x" * 10**6)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)


def test_names_and_texts_of_a_graph_act_on_no_terminal(here, capfd):
    write_hostile_graph(here / "hostile.onnx")
    draw(here / "a.png")
    build = ["--backend", "tensorrt-rtx", "--compute-capability", "sm89", "--profile", "t=1x8x8,1x8x8,1x8x8"]
    for words in (
        ["info", "hostile.onnx"],
        ["info", "hostile.onnx", "--layers"],
        ["upscale", "a.png", "b.png", "--model", "hostile.onnx", "--backend", "onnxruntime"],
        ["upscale", "a.png", "c.png", "--model", "hostile.onnx", "--backend", "openvino"],
        *([["build", "hostile.onnx", *build]] if is_installed("tensorrt_rtx") else []),
        ["verify", "hostile.onnx", "--html", "page.html"],
        ["export", "hostile.onnx"],
    ):
        assert main(words) == (1 if words[0] == "export" else 0)
        captured = capfd.readouterr()  # of the descriptors themselves: libraries in C write there
        assert not set(captured.out + captured.err) & set("\x1b\x07\x9b\u202e\r")
        assert len(captured.out + captured.err) < 10_000
    assert not set((here / "page.html").read_text(encoding="utf-8")) & set("\x1b\x07\x9b\u202e")
    assert main(["info", "hostile.onnx", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["graphs"][0]["metadata"] == {"k\x1b[1m\n": "v\u202e\x9b", "long": "x" * 10**6}


def test_keys_and_texts_of_weights_act_on_no_terminal(here, capfd):
    import safetensors.torch
    import torch

    tensors = {"k\x1b[31m\u202e\n": torch.zeros(3)}
    torch.save(tensors, "keys.pth")
    safetensors.torch.save_file(tensors, "keys.safetensors", {"format": "\x1b]0;x\x07", "sr_deploy.arch": "\x1b[2J"})
    (here / "bundle").mkdir()
    (here / "bundle" / "bundle.json").write_text(json.dumps({"name": "\x1b[31m\x9b", "\u202e": "\x07"}))
    (here / "recipe.toml").write_text('name = "\\u001b[31m"\n"k\\u202e" = 1\n', encoding="utf-8")
    for words in (
        *(["info", name] for name in ("keys.pth", "keys.safetensors", "bundle", "none\x1b[31m\n\u202e")),
        ["export", "keys.pth"],
        ["verify", "bundle"],
        ["train", "recipe.toml"],
        ["train", "--set", "data.\x1b[31m=1"],
        ["upscale", "none\x1b[31m\n\u202e.png", "b.png"],
        ["bench", "bundle", "--backend", "\x1b[31m"],
        ["export", "--profile", "\x1b[31m=\u202e"],
    ):
        assert main(words) in (1, 2, 3)
        captured = capfd.readouterr()
        assert not set(captured.out + captured.err) & set("\x1b\x07\x9b\u202e\r")
        assert captured.err.splitlines()[-1].startswith("error: ")
