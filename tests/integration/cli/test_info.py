import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from sr_deploy.arch.discriminators import build_discriminator, save_discriminator
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec, DiscriminatorSpec
from sr_deploy.bundle import Certificate, CertificateEntry, EngineRecord, FileRecord, Measurement, record_file
from sr_deploy.cli import main
from sr_deploy.cli.info import format_flops, format_share, format_size
from sr_deploy.files import sha256_of

SPEC = ArchSpec(architecture="compact", scale=4, features=64, blocks=16)


def run_json(capsys, path):
    assert main(["info", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def run_text(capsys, path):
    assert main(["info", str(path)]) == 0
    return capsys.readouterr().out


def entry_of(bundle, *, passed, artifact="model.fp32.onnx"):
    measured = Measurement(shape="1x8x8", content="photograph", max_abs=2e-6, psnr_db=131.25, changed_8bit=0)
    return CertificateEntry(
        artifact=record_file(bundle.path, artifact),
        precision="fp32",
        backend="onnxruntime:fp32",
        backend_version="1.31",
        machine="a processor",
        reference="torch:fp32",
        reference_sha256=bundle.manifest.reference.sha256,
        measured_at="2026-01-01T00:00:00",
        thresholds={"max_abs": 1e-5},
        measurements=(measured,),
        worst_max_abs=2e-6,
        worst_psnr_db=131.25,
        passed=passed,
    )


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "net.pth"
    torch.manual_seed(0)
    torch.save({"params": build_network(SPEC).state_dict()}, path)
    return path


def test_checkpoint_for_people(checkpoint, capsys):
    text = run_text(capsys, checkpoint)
    assert "compact x4, 16 blocks, 64 features, RGB (Compact)" in text
    assert "621,424" in text
    assert "1.24 MFLOP per input pixel" in text
    assert "18 px" in text
    assert f"sha256 {sha256_of(checkpoint)[:12]}" in text
    assert sha256_of(checkpoint) not in text


def test_checkpoint_for_programs(checkpoint, capsys):
    document = run_json(capsys, checkpoint)
    assert document["kind"] == "checkpoint"
    assert document["arch"] == SPEC.model_dump()
    assert document["layout"] == "compact"
    assert document["weights"] == {
        "file": str(checkpoint),
        "size_bytes": checkpoint.stat().st_size,
        "sha256": sha256_of(checkpoint),
    }
    assert document["cost"] == {
        "parameters": 621_424,
        "flops_per_input_pixel": 1_238_400.0,
        "receptive_radius": 18,
        "precision_share": {"fp32": 1.0},
        "bytes_per_input_pixel": None,  # it takes a graph to say
    }


def test_published_network(capsys):
    data = os.environ.get("SR_DEPLOY_DATA")
    if not data:
        pytest.skip("SR_DEPLOY_DATA is not set: the published checkpoint is not at hand")
    document = run_json(capsys, Path(data) / "checkpoints" / "realesr-animevideov3.pth")
    assert document["network"] == "compact x4, 16 blocks, 64 features, RGB (Compact)"
    assert document["cost"]["parameters"] == 621_424


def test_onnx_file(exported, capsys):
    made = exported("rrdbnet-x2")
    document = run_json(capsys, made.path)
    (graph,) = document["graphs"]
    assert (document["kind"], document["scale"], document["input_multiple"]) == ("graph", 2, 2)
    assert graph["io"] == "lr (N x 3 x H x W, float32) -> sr (float32)"
    assert graph["cost"]["precision_share"] == {"fp32": 1.0}
    assert graph["file"]["sha256"] == sha256_of(made.path)
    assert graph["metadata"]["sr_deploy.colour"] == "RGB"
    text = run_text(capsys, made.path)
    assert made.spec.title() in text
    assert "multiples of 2" in text
    assert "sr_deploy.colour = RGB" in text


def test_bundle_before_and_after_verification(tmp_path, make_bundle, capsys):
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    document = run_json(capsys, bundle.path)
    assert document["certificate"]["state"].startswith("empty: nothing was measured yet; run: sr-deploy verify")
    assert document["source"] == {"file": "source.pth", "sha256": "5" * 64, "layout": "compact"}
    assert document["tools"] == {"torch": torch.__version__}
    shares = {Path(graph["file"]["file"]).name: graph["cost"]["precision_share"] for graph in document["graphs"]}
    assert shares == {"model.fp32.onnx": {"fp32": 1.0}, "model.fp16.onnx": {"fp16": 1.0}}

    bundle.write_certificate(Certificate(entries=(entry_of(bundle, passed=True),)))
    text = run_text(capsys, bundle.path)
    assert "passed: all 1 entries" in text
    assert "model.fp32.onnx by onnxruntime:fp32 1.31: passed, 131.2 dB, max abs 2e-06, on a processor" in text

    entries = (entry_of(bundle, passed=True), entry_of(bundle, passed=False, artifact="model.fp16.onnx"))
    bundle.write_certificate(Certificate(entries=entries))
    assert run_json(capsys, bundle.path)["certificate"]["state"] == "failed: 1 of 2 entries"

    stale = entry_of(bundle, passed=True).model_copy(update={"reference_sha256": "0" * 64})
    bundle.write_certificate(Certificate(entries=(stale,)))
    assert "invalid" in run_json(capsys, bundle.path)["certificate"]["state"]


def test_engine(tmp_path, make_bundle, capsys):
    bundle = make_bundle("compact-x4", tmp_path)
    content = b"an engine"
    file = FileRecord(file="engines/0123456789abcdef.engine", sha256=hashlib.sha256(content).hexdigest())
    record = EngineRecord(
        key="0123456789abcdef",
        graph_sha256=bundle.manifest.graphs[0].sha256,
        precision="fp32",
        backend="tensorrt-rtx",
        backend_version="1.7",
        target="sm86+sm89",
        profiles=bundle.manifest.profiles,
        flags={},
        engine=file,
        layer_precisions={"HALF": 40, "FLOAT": 2},
        inspected="not inspected: no GPU",
        build_seconds=1.0,
        built_at="2026-01-01T00:00:00",
    )
    engine = bundle.add_engine(record, content)
    document = run_json(capsys, engine)
    assert document["kind"] == "engine"
    assert document["engines"][0]["builder"] == "tensorrt-rtx 1.7"
    assert document["engines"][0]["file"]["size_bytes"] == 9
    text = run_text(capsys, engine)
    assert "layers: 40 HALF, 2 FLOAT; not inspected: no GPU" in text
    assert "tile=1x8x8,1x16x16,1x32x32" in text
    assert "0123456789abcdef" in run_text(capsys, bundle.path)
    engine.with_suffix(".json").unlink()
    assert main(["info", str(engine)]) == 1
    assert "stands alone" in capsys.readouterr().err


def test_run_folder_names_its_weights(tmp_path, write_network, capsys):
    weights = tmp_path / "demo" / "checkpoints" / "step-000040" / "generator_ema.safetensors"
    write_network(weights, SPEC)
    document = run_json(capsys, tmp_path / "demo")
    assert (document["kind"], document["layout"]) == ("checkpoint", "sr-deploy")
    assert document["weights"]["file"] == str(weights)
    # A manifest that cannot be read is an error, not a detail left out.
    (tmp_path / "demo" / "run.json").write_text('{"schema_version": 99}')
    assert main(["info", str(tmp_path / "demo")]) == 1
    assert "is not a manifest of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.pth", b"hello", "no checkpoint: its 5 bytes start with b'hello'"),
        ("text.onnx", b"hello", "is not an ONNX file, or a damaged one"),
        ("lone.engine", b"hello", "stands alone"),
    ],
)
def test_bad_files_are_one_line(tmp_path, capsys, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert main(["info", str(tmp_path / name)]) == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("flops", "shown"),
    [
        (9648, "9.65 kFLOP"),
        (375_800, "375.8 kFLOP"),
        (999_600, "1.00 MFLOP"),
        (1_238_400, "1.24 MFLOP"),
        (35_853_696, "35.9 MFLOP"),
    ],
)
def test_flops_have_three_digits_or_so(flops, shown):
    assert format_flops(flops) == shown


def test_sizes_and_shares():
    assert format_size(999) == "999 bytes"
    assert format_size(2_334_339) == "2.33 MB"
    assert format_share({"fp16": 0.052, "int8": 0.948}) == "94.8 % int8, 5.2 % fp16"
    assert format_share({"fp16": 1.0}) == "fp16"
    assert format_share({}) == "no multiply-adds"


def test_layers_for_programs_add_up(exported, capsys):
    made = exported("compact-x4")
    assert main(["info", str(made.path), "--layers", "--shape", "2x10x20", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (listed,) = document["layers"]
    assert (listed["file"], listed["shape"]) == (str(made.path), "2x10x20")
    pixels = 2 * 10 * 20
    cost = document["graphs"][0]["cost"]
    assert listed["totals"]["flops"] == cost["flops_per_input_pixel"] * pixels
    moved = listed["totals"]["bytes_read"] + listed["totals"]["bytes_written"]
    assert moved == cost["bytes_per_input_pixel"] * pixels
    assert sum(layer["share"] for layer in listed["layers"]) == pytest.approx(1)
    first = next(layer for layer in listed["layers"] if layer["op"] == "Conv")
    assert first["output_shape"] == [2, 8, 10, 20]
    assert first["flops"] == 2 * pixels * 3 * 8 * 9
    assert (first["bytes_read"], first["bytes_written"]) == (4 * 3 * pixels, 4 * 8 * pixels)
    assert (first["weight_bytes"], first["precision"]) == (4 * (8 * 3 * 9 + 8), "fp32")


def test_layers_for_people_have_a_table_for_each_graph(tmp_path, make_bundle, capsys):
    bundle = make_bundle("rrdbnet-x2", tmp_path, fp16=True)
    assert main(["info", str(bundle.path), "--layers"]) == 0
    text = capsys.readouterr().out
    assert "layers of model.fp32.onnx at 1x256x256" in text
    assert "layers of model.fp16.onnx at 1x256x256" in text
    assert "100 %" in text
    assert "feature maps" not in text  # a bundle has them in its table of graphs
    assert "moved" in text
    assert "kB per input pixel, as its layers read and write them" in run_text(capsys, bundle.graph("fp32"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "1x8x8"], "--shape 1x8x8 says what --layers counts for; give --layers too"),
        (["--layers", "--shape", "1x7x8"], "sides that are multiples of 2, not 1x7x8"),
        (["--layers", "--shape", "8x8"], "'8x8'"),
    ],
)
def test_layers_that_cannot_be_listed(exported, capsys, words, message):
    assert main(["info", str(exported("rrdbnet-x2").path), *words]) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_has_no_layers_to_list(checkpoint, capsys):
    assert main(["info", str(checkpoint), "--layers"]) == 1
    assert (
        "has no ONNX graph, so there are no layers to list; make one with: sr-deploy export" in capsys.readouterr().err
    )


@pytest.mark.parametrize("legacy", [True, False])
def test_discriminator(tmp_path, capsys, legacy):
    path = tmp_path / "netD.pth"
    spec = DiscriminatorSpec(architecture="unet", features=8, spectral_norm=True)
    state = build_discriminator(spec).state_dict()
    names = {".parametrizations.weight.original": ".weight_orig", ".parametrizations.weight.0._": ".weight_"}
    for new, old in names.items() if legacy else ():
        state = {key.replace(new, old): tensor for key, tensor in state.items()}
    torch.save({"params": state}, path)
    document = run_json(capsys, path)
    assert document["kind"] == "discriminator"
    assert document["discriminator"] == spec.model_dump()
    # 64 times fewer than with 64 features, but for what the images' and the verdict's channels take.
    assert document["parameters"] == (4_376_320 - 1792) // 64 + 28 * 8 + 9 * 8 + 1
    assert document["weights"]["sha256"] == sha256_of(path)
    text = run_text(capsys, path)
    assert "discriminator" in text
    assert "unet, 8 features, spectral norm, RGB" in text
    assert f"{document['parameters']:,}" in text
    assert main(["info", str(path), "--layers"]) == 1
    assert "is a discriminator and has no ONNX graph" in capsys.readouterr().err


def test_discriminator_where_a_generator_is_due(tmp_path, capsys):
    spec = DiscriminatorSpec(architecture="srgan", features=2, patch_size=32)
    save_discriminator(tmp_path / "discriminator.safetensors", build_discriminator(spec).state_dict(), spec)
    assert (
        run_json(capsys, tmp_path / "discriminator.safetensors")["network"] == "srgan, 2 features, patches of 32, RGB"
    )
    assert main(["export", str(tmp_path / "discriminator.safetensors"), "--out", str(tmp_path / "out")]) == 1
    assert "holds no generator but a discriminator; give generator.safetensors" in capsys.readouterr().err
