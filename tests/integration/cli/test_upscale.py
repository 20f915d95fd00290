from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.bundle import GraphRecord, Manifest, Profile, Shape, SourceRecord, creating_bundle, record_file
from sr_deploy.cli import main
from sr_deploy.gpus import visible_gpus
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.convert import to_image, to_nchw
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import open_model
from sr_deploy.train.run import PrecisionRecord, RunManifest, write_manifest

SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, write_network) -> Path:
    folder = tmp_path_factory.mktemp("upscale")
    write_network(folder / "net.safetensors", SPEC)
    write_image(folder / "in.png", read_image(bundled_photographs()["coffee"])[100:160, 200:301])
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network and a picture."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected_picture(here: Path) -> np.ndarray:
    network = open_model(here / "net.safetensors").load_network()
    with torch.inference_mode():
        return to_image(network(torch.from_numpy(to_nchw(read_image(here / "in.png")))).numpy())


def test_writes_what_the_network_gives(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "in.png", "new/out.png", "--model", "net.safetensors"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "model    net.safetensors"
    assert printed[1].startswith("backend  torch:fp32 2.")
    assert printed[2].startswith("new/out.png: 101x60 to 202x120, whole, ")
    assert printed[2].endswith(" s")
    written = read_image(here / "new/out.png")
    assert np.abs(written.astype(int) - expected_picture(here)).max() <= 1


def test_tiles_and_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["upscale", "in.png", "out.png", "--model", "net.safetensors", "--backend", "torch:fp32", "--tile", "32"]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["input"] == {"width": 101, "height": 60}
    assert document["output"] == {"width": 202, "height": 120}
    assert (document["tiles"], document["halo"], document["receptive_radius"]) == (6, 4, 4)
    assert (document["backend"], document["scale"], document["seconds"] > 0) == ("torch:fp32", 2, True)
    assert "upscaling in.png: 100 %" in captured.err
    assert np.abs(read_image(here / "out.png").astype(int) - expected_picture(here)).max() <= 1
    assert main(words) == 0
    assert "6 tiles with 4 pixels of overlap, all that the network sees" in capsys.readouterr().out


def test_tiles_in_batches(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["upscale", "in.png", "out.png", "--model", "net.safetensors", "--backend", "torch:fp32", "--tile", "32"]
    assert main([*words, "--batch", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["tiles"], document["batch"], document["batch_halvings"]) == (6, 4, 0)
    assert np.abs(read_image(here / "out.png").astype(int) - expected_picture(here)).max() <= 1
    assert main([*words, "--batch", "0"]) == 2


def test_a_stream_gives_the_file_of_the_whole_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "net.safetensors", "--backend", "torch", "--tile", "16"]
    assert main(["upscale", "in.png", "whole.png", *words]) == 0
    whole = capsys.readouterr().out
    assert main(["upscale", "in.png", "rows.png", *words, "--stream"]) == 0
    rows = capsys.readouterr().out
    assert "101x60 to 202x120, 24 tiles with 4 pixels of overlap, all that the network sees" in rows
    assert rows.splitlines()[:2] == whole.splitlines()[:2]
    assert (here / "rows.png").read_bytes() == (here / "whole.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.png", "out.png"], "none.png does not exist; give a picture"),
        ([".", "out.png"], ". is a folder, but out.png is the name of a picture; give a folder for the results"),
        (["net.safetensors", "out.png"], "net.safetensors is not a picture that can be read; give a PNG, JPEG"),
        (["cut.png", "out.png"], "cut.png is a damaged or incomplete PNG file"),
        (["in.png", "in.png"], "in.png is the picture to read; give another name for the result"),
        (["in.png", "./../here/in.png"], "is the picture to read"),
        (["in.png", "out.bmp"], "cannot write out.bmp: unknown suffix '.bmp'; name the output with one of .png, .jpg"),
        (["in.png", "in.png/out.png"], "cannot write in.png/out.png: a file stands where a folder is needed"),
        (["in.png", "out.png", "--model", "nowhere"], "nowhere"),
        (
            ["in.png", "out.avif", "--stream"],
            "cannot write out.avif row by row: AVIF is encoded whole; write .png, .jpg",
        ),
        (["in.png", "out.png", "--stream", "--scale", "3"], "--stream writes pictures of the network's own scale, 2, "),
        ([".", "out", "--stream"], "--stream is for one picture, and . is none; leave it out"),
        (["in.png", "out.png", "--backend", "tpu"], "unknown backend 'tpu'; known: torch, onnxruntime, openvino"),
        (["in.png", "out.png", "--backend", "torch:int8"], "torch:int8"),
        (["in.png", "out.png", "--backend", "tensorrt-rtx:fp16"], "tensorrt-rtx:fp16 "),
    ],
)
def test_bad_input_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here / "here"
    folder.mkdir()
    for name in ("in.png", "net.safetensors"):
        (here / name).rename(folder / name)
    monkeypatch.chdir(folder)
    content = Path("in.png").read_bytes()
    Path("cut.png").write_bytes(content[: len(content) // 2])
    before = sorted(folder.rglob("*"))
    model = [] if "--model" in words else ["--model", "net.safetensors"]
    assert main(["upscale", *words, *model]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert sorted(folder.rglob("*")) == before
    assert Path("in.png").read_bytes() == content


def test_usage_errors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "in.png"]) == 2
    assert main(["upscale", "in.png", "out.png", "--tile", "-1"]) == 2
    assert not (here / "out.png").exists()
    assert "OUT" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "locked").mkdir(mode=0o500)
    assert main(["upscale", "in.png", "locked/out.png", "--model", "net.safetensors"]) == 1
    assert "permission denied; choose a folder that you may write to" in capsys.readouterr().err


def test_a_damaged_network_that_gives_nan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = build_network(SPEC).state_dict()
    next(value for key, value in state.items() if key.endswith("weight"))[0] = float("inf")
    save_generator(here / "bad.safetensors", state, SPEC)
    assert main(["upscale", "in.png", "out.png", "--model", "bad.safetensors", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["kind"] in ("BackendError", "CheckpointError")
    assert not (here / "out.png").exists()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as a graph."""
    from sr_deploy.export.onnx_export import export_network_to_onnx

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "model.fp32.onnx"
    export_network_to_onnx(build_network(SPEC).eval(), SPEC, path, "0" * 64)
    return path


def make_bundle(folder: Path, name: str, created_at: str, graph: Path) -> None:
    with creating_bundle(folder / "deployments" / name) as path:
        shutil.copy(folder / "net.safetensors", path / "generator.safetensors")
        shutil.copy(graph, path / "model.fp32.onnx")
        shape = Shape(1, 64, 64)
        manifest = Manifest(
            name=name,
            created_at=created_at,
            arch=SPEC,
            source=SourceRecord(file="net.safetensors", sha256="0" * 64, layout="sr-deploy"),
            reference=record_file(path, "generator.safetensors"),
            graphs=(GraphRecord(**record_file(path, "model.fp32.onnx").model_dump(), precision="fp32"),),
            profiles=(Profile(name="one", min=shape, opt=shape, max=shape),),
            tools={},
        )
        (path / "bundle.json").write_text(manifest.model_dump_json())


def make_run(folder: Path, name: str) -> None:
    path = folder / "runs" / name
    (path / "checkpoints" / "step-000010").mkdir(parents=True)
    shutil.copy(folder / "net.safetensors", path / "checkpoints" / "step-000010" / "generator_ema.safetensors")
    now = datetime.now(UTC)
    manifest = RunManifest(
        name=name,
        recipe="demo",
        created_at=now,
        updated_at=now,
        status="finished",
        step=10,
        steps=10,
        seconds=1,
        checkpoints=("checkpoints/step-000010",),
        precision=PrecisionRecord(autocast="off", channels_last=False),
        device="cpu",
        data_sha256="0" * 64,
        versions={},
        machine=describe_machine(),
    )
    write_manifest(path, manifest)


def test_the_newest_bundle_comes_before_a_run(here: Path, graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here, "demo")
    assert main(["upscale", "in.png", "run.png"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"model    {Path('runs/demo')}"
    make_bundle(here, "b-older", "2026-01-01T00:00:00.000000+00:00", graph)
    make_bundle(here, "a-newer", "2026-02-01T00:00:00.000000+00:00", graph)
    assert main(["upscale", "in.png", "bundle.png"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"model    {Path('deployments/a-newer')}"
    for name in ("run.png", "bundle.png"):
        assert np.abs(read_image(here / name).astype(int) - expected_picture(here)).max() <= 1


@pytest.mark.skipif(bool(visible_gpus()), reason="with a GPU, auto means the GPU")
def test_auto_computes_a_graph_without_torch(here: Path, graph: Path) -> None:
    program = (
        "import sys; from sr_deploy.cli import main\n"
        f"code = main(['upscale', 'in.png', 'out.png', '--model', {str(graph)!r}])\n"
        "print(code, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    lines = answer.stdout.splitlines()
    assert lines[1].startswith(("backend  openvino:fp32 ", "backend  onnxruntime:fp32 "))  # whichever is faster here
    assert lines[-1] == "0 False"
    assert np.abs(read_image(here / "out.png").astype(int) - expected_picture(here)).max() <= 1


# --- formats, sizes, folders


def test_scale_alpha_and_quality(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sr_deploy.imaging.decoded_image import DecodedImage, decode_image, write_decoded

    pixels = read_image(here / "in.png")
    write_decoded(here / "clear.png", DecodedImage(pixels, np.ascontiguousarray(pixels[..., 0]), dpi=(300, 300)))
    model = ["--model", "net.safetensors", "--backend", "torch"]
    assert main(["upscale", "clear.png", "small.webp", *model, "--scale", "1.5", "--alpha", "bicubic"]) == 0
    assert "small.webp: 101x60 to 152x90, whole, " in capsys.readouterr().out
    small = decode_image(here / "small.webp")
    assert small.pixels.shape == (90, 152, 3)
    assert small.alpha is not None
    assert small.dpi == pytest.approx((300, 300), rel=1e-4)
    sizes = []
    for quality in ("20", "90"):
        assert main(["upscale", "in.png", "q.jpg", *model, "--quality", quality]) == 0
        sizes.append((here / "q.jpg").stat().st_size)
    assert 2 * sizes[0] < sizes[1]


def test_what_a_format_cannot_hold_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sr_deploy.imaging.decoded_image import DecodedImage, write_decoded

    write_decoded(here / "deep.png", DecodedImage(read_image(here / "in.png").astype(np.uint16) * 257))
    words = ["upscale", "deep.png", "out.jpg", "--model", "net.safetensors", "--backend", "torch"]
    assert main(words) == 0
    assert "note     JPEG holds 8 bits per channel: 16 bits were rounded" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["losses"] == ["JPEG holds 8 bits per channel: 16 bits were rounded"]
    assert (document["recomputed"], document["halvings"]) == (0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.png", "o.png", "--scale", "0"], "a scale is a number above 0, as in 2 or 1.5, not 0.0"),
        (["in.png", "o.png", "--quality", "80"], "PNG files lose nothing, so quality 80 means nothing for o.png"),
        (["in.png", "o.png", "--format", "png"], "--format is for folders; the ending of o.png says the format"),
        (["in.png", "o.png", "--max-megapixels", "0.005"], "is 101x60, 0.0 megapixels; at most 0.005 are taken"),
        (["in.png", "o.png", "--scale", "5000"], "would become 505000x300000"),
        (
            ["folder", "o", "--format", "bmp"],
            "unknown format 'bmp'; known: .png, .jpg, .jpeg, .webp, .tif, .tiff, .avif",
        ),
        (["folder", "folder"], "folder holds the pictures to read; give another folder for the results"),
        (["folder", "in.png"], "folder is a folder, but in.png is the name of a picture"),
        (["none", "o"], "none does not exist; give a picture"),
    ],
)
def test_what_cannot_be_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (here / "folder").mkdir()
    shutil.copy(here / "in.png", here / "folder")
    before = sorted(here.rglob("*"))
    assert main(["upscale", *words, "--model", "net.safetensors", "--backend", "torch"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(here.rglob("*")) == before


def test_a_folder_with_a_bad_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "album" / "deep").mkdir(parents=True)
    shutil.copy(here / "in.png", here / "album" / "a.png")
    shutil.copy(here / "in.png", here / "album" / "deep" / "b.png")
    (here / "album" / "c.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    words = ["upscale", "album", "large", "--model", "net.safetensors", "--backend", "torch", "--format", "tif"]
    assert main(words) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "model    net.safetensors"
    assert lines[-1].startswith("large: 2 written, 1 failed, ")
    failed = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert failed[0].startswith("failed: album/c.jpg: album/c.jpg is a damaged or incomplete JPEG file")
    for name in ("large/a.tif", "large/deep/b.tif"):
        assert np.abs(read_image(here / name).astype(int) - expected_picture(here)).max() <= 1
    assert main([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["written"], document["skipped"]) == ([], ["large/a.tif", "large/deep/b.tif"])
    assert [entry["source"] for entry in document["failed"]] == ["album/c.jpg"]
    (here / "album" / "c.jpg").unlink()
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("large: 0 written, 2 finished before, ")


# --- several devices


def test_two_devices_share_a_folder(here: Path, graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = read_image(here / "in.png")
    for number in range(4):
        write_image(here / "many" / f"{number}.png", np.roll(pixels, 7 * number, axis=1))
    (here / "many" / "broken.png").write_text("no picture")
    options = ["--model", str(graph), "--backend", "onnxruntime", "--tile", "32"]
    assert main(["upscale", "many", "one", *options]) == 1
    assert capsys.readouterr().out.splitlines()[1].endswith(" on cpu")
    assert main(["upscale", "many", "two", "--device", "cpu,cpu", *options]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].endswith(" on cpu, cpu")
    assert captured.out.splitlines()[2].startswith("two: 4 written, 1 failed, ")
    assert "failed: many/broken.png: " in captured.err
    for number in range(4):
        assert (here / "two" / f"{number}.png").read_bytes() == (here / "one" / f"{number}.png").read_bytes()
    assert main(["upscale", "many", "two", "--device", "cpu", "--json", *options]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["devices"], len(document["skipped"]), document["faults"]) == (["cpu"], 4, [])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--device", "cpu,"], "--device takes names with a comma between them, as in cuda:0,cuda:1, not 'cpu,'"),
        (["--device", "cpu,cpu"], "one device computes one picture; --device names 2: give one of them"),
        (["--device", "cuda:99", "--backend", "torch"], "cuda:99"),
        (["--ray", "local"], "--ray is for folders, and in.png is none"),
    ],
)
def test_devices_that_cannot_be_used_are_errors(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert main(["upscale", "in.png", "out.png", "--model", "net.safetensors", *words]) == 1
    assert reason in capsys.readouterr().err
    assert not (here / "out.png").exists()
