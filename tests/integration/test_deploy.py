from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sr_deploy import deploy, deps
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import builders
from sr_deploy.bundle import open_bundle, parse_profile
from sr_deploy.cli import main
from sr_deploy.deploy import export_bundle
from sr_deploy.engine import bundle as engine_bundle
from sr_deploy.engine.bundle import build_engines
from sr_deploy.errors import BackendError, CheckpointError, InputError, OutputError, ShapeError
from sr_deploy.export.spec import ExportSpec, load_spec
from sr_deploy.files import sha256_of
from sr_deploy.gpus import visible_gpus
from sr_deploy.model import open_model

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)
TILE = parse_profile("tile=1x16x16,1x32x32,1x64x64")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, write_network) -> Path:
    return write_network(tmp_path_factory.mktemp("weights") / "little.safetensors", SPEC, seed=1)


@pytest.fixture(scope="module")
def made(checkpoint, hear, tmp_path_factory: pytest.TempPathFactory):
    """A whole deployment, with FP16 and what this machine builds."""
    out = tmp_path_factory.mktemp("deployments") / "little"
    spec = load_spec().with_options(fp16=True, profiles=(TILE,))
    with hear() as lines:
        return export_bundle(checkpoint, spec, out), lines


def test_bundle_is_complete_and_opens(made, checkpoint):
    result, stages = made
    bundle = open_bundle(result.bundle.path)
    manifest = bundle.manifest
    assert (manifest.name, manifest.arch, manifest.profiles) == ("little", SPEC, (TILE,))
    assert bundle.precisions == ("fp32", "fp16")
    assert manifest.source.file == "little.safetensors"
    assert manifest.source.sha256 == sha256_of(checkpoint)
    assert {"torch", "onnx", "sr-deploy"} <= manifest.tools.keys()
    assert "export the fp16 graph" in stages
    model = open_model(bundle.path)
    lr = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.load_network()(lr), open_model(checkpoint).load_network()(lr))


def test_graphs_carry_the_hash_of_the_source(made, checkpoint):
    from sr_deploy.graph.read import read_graph

    result, _ = made
    for precision in ("fp32", "fp16"):
        metadata = read_graph(result.bundle.graph(precision)).metadata
        assert metadata["sr_deploy.source_sha256"] == sha256_of(checkpoint)


def test_graph_is_rewritten_unless_the_spec_says_no(made, checkpoint, tmp_path):
    result, _ = made
    assert result.saving is not None
    assert result.bundle.manifest.rewrites == tuple(step.name for step in result.saving.report.applied)
    assert result.bundle.manifest.rewrites
    timing = result.saving.timing
    assert timing is not None
    assert timing.ratio_low <= timing.ratio <= timing.ratio_high
    added = {entry.backend: entry.rewrites for entry in result.certificate}
    assert timing.rewrites == added["openvino:fp32"]
    assert added["onnxruntime:fp16"] == ()
    spec = ExportSpec(profiles=(TILE,)).with_options(rewrite=False)
    plain = export_bundle(checkpoint, spec, tmp_path / "plain", backend="none")
    assert plain.saving is None
    assert plain.bundle.manifest.rewrites == ()
    assert plain.passed
    # The file is as PyTorch's exporter gives it; a runner still does to it what it does to everybody's.
    of_plain = {entry.backend: entry.rewrites for entry in plain.certificate}
    assert of_plain["openvino:fp32"] == result.bundle.manifest.rewrites + added["openvino:fp32"]
    assert plain.bundle.manifest.graph("fp32").sha256 != result.bundle.manifest.graph("fp32").sha256
    operators = [node.op_type for node in onnx.load(plain.bundle.graph("fp32")).graph.node]
    assert operators.count("Resize") == 1  # as PyTorch's exporter gives it


def test_certificate_is_part_of_it_and_passed(made):
    result, _ = made
    assert result.passed
    entries = {entry.backend: entry for entry in result.bundle.certificate().entries}
    assert entries["onnxruntime:fp32"].worst_max_abs <= 1e-5
    assert entries["onnxruntime:fp32"].thresholds["max_abs"] == 1e-5
    assert entries["onnxruntime:fp16"].worst_psnr_db > 55
    assert entries["onnxruntime:fp16"].artifact.sha256 == sha256_of(result.bundle.graph("fp16"))


@needs_rtx
def test_engines_stand_in_the_bundle_and_say_what_is_left_to_build(made):
    result, _ = made
    assert [engine.precision for engine in result.engines] == ["fp32", "fp16"]
    assert {engine.key for engine in result.bundle.engines()} == {engine.key for engine in result.engines}
    assert result.engines[0].target == "+".join(builders.compute_capabilities("tensorrt-rtx"))
    if not visible_gpus():
        (missing,) = result.not_built
        assert missing.backend == "tensorrt"
        assert missing.command == f"sr-deploy build {result.bundle.path} --backend tensorrt"


def sorted_keys(records) -> list[str]:
    return sorted(record.key for record in records)


@needs_rtx
def test_build_keeps_what_holds_and_replaces_what_is_stale(made):
    bundle = made[0].bundle
    before = bundle.engines()
    again = build_engines(bundle, "tensorrt-rtx")
    assert (again.built, sorted_keys(again.kept), again.removed) == ((), sorted_keys(before), ())
    wider = build_engines(bundle, "tensorrt-rtx", profiles=[parse_profile("tile=1x16x16,1x32x32,1x96x96")])
    assert len(wider.built) == 2
    assert set(wider.removed) == {record.engine.file for record in before}
    assert not any((bundle.path / record.engine.file).exists() for record in before)
    assert sorted_keys(bundle.engines()) == sorted_keys(wider.built)
    other = build_engines(bundle, compute_capabilities=["8.9"])  # another target: stands beside
    assert {record.target for record in other.built} == {"sm89"}
    assert other.not_built == ()
    assert sorted_keys(bundle.engines()) == sorted_keys((*wider.built, *other.built))


@needs_rtx
def test_damaged_engine_is_built_anew(checkpoint, tmp_path):
    spec = load_spec().with_options(profiles=(TILE,))
    bundle = export_bundle(checkpoint, spec, tmp_path / "b", backend="none").bundle
    (record,) = build_engines(bundle, "tensorrt-rtx", compute_capabilities=["sm89"]).built
    (bundle.path / record.engine.file).write_bytes(b"cut short")
    (rebuilt,) = build_engines(bundle, "tensorrt-rtx", compute_capabilities=["sm89"]).built
    assert rebuilt.key == record.key
    assert [one.key for one in bundle.engines()] == [record.key]


def test_without_any_sdk_the_bundle_is_complete(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(deps, "is_installed", lambda module: not module.startswith("tensorrt"))
    result = export_bundle(checkpoint, load_spec().with_options(profiles=(TILE,)), tmp_path / "b")
    assert result.engines == ()
    assert result.passed
    assert [missing.backend for missing in result.not_built] == ["tensorrt", "tensorrt-rtx"]
    assert result.not_built[1].reason == "tensorrt_rtx is not installed; run: pip install 'sr-deploy[rtx]'"
    with pytest.raises(BackendError, match="no tensorrt-rtx engine: tensorrt_rtx is not installed"):
        build_engines(result.bundle)


def test_failing_builder_does_not_fail_the_export(checkpoint, tmp_path, monkeypatch):
    def refuse(request, **options):
        raise BackendError("tensorrt-rtx could not build an engine from model.fp32.onnx: no tactics")

    monkeypatch.setattr(builders, "why_not_buildable", lambda backend: None)
    monkeypatch.setattr(builders, "resolve_compute_capabilities", lambda backend, wanted: ("sm89",))
    monkeypatch.setattr(builders, "sdk_version", lambda backend: "1.0")
    monkeypatch.setattr(engine_bundle, "build_engine", refuse)
    spec = load_spec().with_options(profiles=(TILE,))
    result = export_bundle(checkpoint, spec, tmp_path / "b", backend="tensorrt-rtx")
    assert "no tactics" in result.not_built[0].reason
    with pytest.raises(BackendError, match="no tactics"):
        build_engines(result.bundle, "tensorrt-rtx")


def test_bundle_is_replaced_as_a_whole_and_nothing_else_is(checkpoint, tmp_path):
    out = tmp_path / "deployments" / "one"
    spec = load_spec().with_options(profiles=(TILE,))
    first = export_bundle(checkpoint, spec.with_options(fp16=True), out, backend="none")
    (out / "engines").mkdir()
    second = export_bundle(checkpoint, spec, out, backend="none")
    assert first.bundle.manifest.created_at < second.bundle.manifest.created_at
    names = sorted(path.name for path in out.iterdir())
    assert names == ["bundle.json", "certificate.html", "certificate.json", "generator.safetensors", "model.fp32.onnx"]
    assert [path.name for path in out.parent.iterdir()] == ["one"]
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"mine holds files and is not a bundle; .*--out"):
        export_bundle(checkpoint, spec, other, backend="none")
    assert (other / "thesis.txt").read_text() == "years of work"


def test_a_bundle_exports_again_and_keeps_its_name(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = load_spec().with_options(profiles=(TILE,))
    again = export_bundle(made[0].bundle.path, spec, backend="none")
    assert again.bundle.path == Path("deployments/little")
    assert sha256_of(again.bundle.path / "generator.safetensors") != ""
    lr = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    one, other = (open_model(path).load_network() for path in (again.bundle.path, made[0].bundle.path))
    assert torch.equal(one(torch.from_numpy(lr)), other(torch.from_numpy(lr)))


def test_names_come_from_run_bundle_or_file(checkpoint, made, tmp_path):
    assert deploy.default_name(open_model(checkpoint)) == "little"
    assert deploy.default_name(open_model(made[0].bundle.path)) == "little"
    step = tmp_path / "runs" / "demo" / "checkpoints" / "step-000010"
    step.mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "run.json").write_text("{}")
    (step / "generator_ema.safetensors").write_bytes(checkpoint.read_bytes())
    assert deploy.default_name(open_model(step)) == "demo"
    assert deploy.default_name(open_model(step / "generator_ema.safetensors")) == "demo"
    assert deploy.default_name(open_model(tmp_path / "runs" / "demo")) == "demo"


def test_full_disk_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    real = Path.write_bytes

    def no_space(self: Path, data: bytes) -> int:
        if self.suffix == ".onnx":
            real(self, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OutputError, match="the disk is full"):
        export_bundle(checkpoint, load_spec(), tmp_path / "b", backend="none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("profiles", "message"),
    [("tile=1x16x16,1x32x32,1x65x64", "multiples of 2"), ("t=1x16x16,1x32x32,64x32768x32768", "more than any GPU")],
)
def test_impossible_profiles_stop_before_anything_is_written(tmp_path, write_network, profiles, message):
    spec = ArchSpec(architecture="rrdbnet", scale=2, features=8, blocks=1, growth=4)
    path = write_network(tmp_path / "x2.safetensors", spec)
    wanted = load_spec().with_options(profiles=(parse_profile(profiles),))
    with pytest.raises(ShapeError, match=message):
        export_bundle(path, wanted, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_has_no_weights_is_no_checkpoint(made, tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        export_bundle(made[0].bundle.graph("fp32"), out=tmp_path / "b")
    with pytest.raises(InputError, match=r"gone\.pth"):
        export_bundle(tmp_path / "gone.pth", out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


# --- the commands ---


@needs_rtx
def test_export_and_build_commands(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["export", str(checkpoint), "--fp16", "--profile", str(TILE), "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bundle"] == "deployments/little"
    assert document["passed"] is True
    sizes = {entry["file"]: entry["bytes"] for entry in document["files"]}
    assert sizes["model.fp16.onnx"] == Path("deployments/little/model.fp16.onnx").stat().st_size
    assert len(document["engines"]) == 2
    assert main(["build", "--backend", "tensorrt-rtx", "--json"]) == 0  # the newest bundle
    kept = json.loads(capsys.readouterr().out)
    assert (kept["built"], len(kept["kept"])) == ([], 2)
    assert main(["build", "deployments/little", "--compute-capability", "sm89"]) == 0
    shown = capsys.readouterr().out
    assert "built " in shown
    assert "sm89" in shown
    assert main(["build", "--compute-capability", "sm10"]) == 1
    assert "does not build for compute capability 'sm10'; known: sm75" in capsys.readouterr().err


def test_export_table_tells_files_verdicts_and_what_to_do_elsewhere(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deps, "is_installed", lambda module: not module.startswith("tensorrt"))
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "b b"), "--profile", str(TILE)]) == 0
    shown = capsys.readouterr().out
    assert "model.fp32.onnx" in shown
    assert shown.splitlines()[-1] == "verified"
    assert "FAILED" not in shown
    assert f"sr-deploy build '{tmp_path / 'b b'}' --backend tensorrt-rtx" in shown  # on one line, to be copied


def test_unmet_thresholds_exit_with_3_and_keep_the_bundle(checkpoint, tmp_path, monkeypatch, capsys):
    path = tmp_path / "strict.toml"
    path.write_text(f'profiles = ["{TILE}"]\nprecisions = ["fp16"]\n[thresholds.fp16]\npsnr_db = 300.0\n')
    words = ["export", str(checkpoint), "--spec", str(path), "--out", str(tmp_path / "b"), "--backend", "none"]
    assert main(words) == 3
    seen = capsys.readouterr()
    assert "FAILED" in seen.out
    assert "error: NOT verified: model.fp16.onnx on onnxruntime:fp16" in seen.err
    assert not all(entry.passed for entry in open_bundle(tmp_path / "b").certificate().entries)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.pth"], "gone.pth"),
        (["CHECKPOINT", "--backend", "cuda"], "no engines are built with 'cuda'; --backend may be auto, tensorrt"),
        (["CHECKPOINT", "--profile", "tile=1x2"], "'tile=1x2' is not a profile"),
        (["CHECKPOINT", "--profile", "t=2x8x8,1x8x8,1x8x8"], "min <= opt <= max"),
        (["CHECKPOINT", "--spec", "nonesuch"], "no spec named 'nonesuch'"),
        (["CHECKPOINT", "--out", "file.txt/b"], "cannot write"),
        (["text.pth"], "text.pth"),
        ([], "train one with: sr-deploy train"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(checkpoint, tmp_path, monkeypatch, capsys, *, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pth").write_text("these are no weights")
    (tmp_path / "file.txt").write_text("a file")
    assert main(["export", *(str(checkpoint) if word == "CHECKPOINT" else word for word in words)]) == 1
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.txt", "text.pth"]


def test_build_without_a_bundle_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["build"]) == 1
    assert "make one with: sr-deploy export" in capsys.readouterr().err
    assert main(["build", "--backend", "none"]) == 1
    assert "nothing to do" in capsys.readouterr().err
