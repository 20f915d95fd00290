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
from sr_deploy.deps import is_installed
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.convert import to_image, to_nchw
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import open_model
from sr_deploy.train.run import PrecisionRecord, RunManifest, write_manifest
from sr_deploy.trt import visible_gpus

SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upscale")
    torch.manual_seed(0)
    save_generator(folder / "net.safetensors", build_network(SPEC).state_dict(), SPEC)
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.png", "out.png"], "none.png does not exist; give a picture"),
        ([".", "out.png"], ". is a folder, but a picture must be a file"),
        (["net.safetensors", "out.png"], "net.safetensors is no picture that can be read; give a JPEG, PNG"),
        (["cut.png", "out.png"], "cut.png is a damaged or incomplete PNG file"),
        (["in.png", "in.png"], "in.png is the picture to read; give another name for the result"),
        (["in.png", "./../here/in.png"], "is the picture to read"),
        (["in.png", "out.bmp"], "cannot write out.bmp: unknown suffix '.bmp'; name the output with one of .png, .jpg"),
        (["in.png", "in.png/out.png"], "cannot write in.png/out.png: a file stands where a folder is needed"),
        (["in.png", "out.png", "--model", "nowhere"], "nowhere"),
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


def test_nothing_to_upscale_with(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "in.png", "out.png"]) == 1
    message = "no bundle in deployments, and no run with a checkpoint in runs; train one with: sr-deploy train; or give"
    assert message in capsys.readouterr().err
    assert not (here / "out.png").exists()


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
def test_auto_is_the_fastest_on_a_cpu_and_needs_no_torch(here: Path, graph: Path) -> None:
    program = (
        "import sys; from sr_deploy.cli import main\n"
        f"code = main(['upscale', 'in.png', 'out.png', '--model', {str(graph)!r}])\n"
        "print(code, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    lines = answer.stdout.splitlines()
    best = "openvino" if is_installed("openvino") else "onnxruntime"
    assert lines[1].startswith(f"backend  {best}:fp32 ")
    assert lines[-1] == "0 False"
    assert np.abs(read_image(here / "out.png").astype(int) - expected_picture(here)).max() <= 1
