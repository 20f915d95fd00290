"""INT8 with the rest in BF16: its own backend entry, held to the graph's budget, refused where the CPU has no BF16."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.openvino import runner as openvino_runner
from sr_deploy.backends.registry import parse_backend
from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.errors import BackendError, InputError
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner
from sr_deploy.runners.faithful import list_faithful
from sr_deploy.runners.fastest import describe_slow_int8, measure_int8_pace
from sr_deploy.verification.verify import verify_model

INT8_BF16 = BackendChoice("openvino", "int8", "bf16")
HAS_BF16 = "BF16" in openvino_runner._cpu_capabilities()
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16 instructions")


@pytest.fixture
def bundle(export_sound):
    return export_sound("compact", int8=True)


def test_it_is_written_with_a_plus_that_is_no_variants():
    assert parse_backend("openvino:int8+bf16") == INT8_BF16 != BackendChoice("openvino", "int8")
    assert str(INT8_BF16) == "openvino:int8+bf16"
    for text in ("openvino:int8+bf16", "openvino:int8+bf16+fixed", "openvino:int8+fixed"):
        assert str(parse_candidate(text)) == text
    assert parse_candidate("openvino:int8+bf16+fixed").backend == INT8_BF16
    with pytest.raises(InputError, match=r"unknown precision 'int8\+bf16'.* and openvino:int8\+bf16"):
        parse_backend("onnxruntime:int8+bf16")


@needs_bf16
def test_the_rest_is_computed_in_bf16(bundle):
    lr = np.random.default_rng(0).random((1, 3, 24, 24), dtype=np.float32)
    with open_runner(bundle.path, "openvino:int8") as plain, open_runner(bundle.path, INT8_BF16) as mixed:
        assert str(mixed.spec) == "openvino:int8+bf16"
        apart = np.abs(plain.infer(lr) - mixed.infer(lr))
    assert 2.0**-12 < apart.max() < 0.2  # of FP32 and of other INT8 it would be none, or far more


@needs_bf16
def test_it_is_certified_as_its_own_entry_with_its_loss_and_auto_may_take_it(bundle):
    entry = next(one for one in bundle.certificate().entries if one.backend == "openvino:int8+bf16")
    assert (entry.passed, entry.precision, entry.artifact.file) == (True, "int8", "model.int8.onnx")
    assert entry.drop_db is not None
    assert entry.drop_db <= bundle.manifest.int8.max_drop_db
    assert INT8_BF16 in list_faithful(open_model(bundle.path))


@needs_bf16
@pytest.mark.parametrize("drop_db", [None, 1.5])
def test_an_entry_without_a_loss_within_the_budget_covers_nothing(bundle, tmp_path, drop_db):
    path = shutil.copytree(bundle.path, tmp_path / "bundle")
    document = json.loads((path / "certificate.json").read_text())
    for entry in document["entries"]:
        if entry["backend"] == "openvino:int8+bf16":
            entry["drop_db"] = drop_db
    (path / "certificate.json").write_text(json.dumps(document))
    assert INT8_BF16 not in list_faithful(open_model(path))
    assert BackendChoice("openvino", "int8") in list_faithful(open_model(path))
    found = verify_model(path, choices=[BackendChoice("openvino", "int8")])
    (finding,) = [line for check in found.checks if check.kind == "certificate" for line in check.findings]
    assert ("says nothing of what it loses" if drop_db is None else "loses 1.500 dB against photographs") in finding


def test_a_cpu_without_bf16_refuses_and_says_so(bundle, monkeypatch, capsys):
    monkeypatch.setattr(openvino_runner, "_cpu_capabilities", lambda: ("FP32", "INT8"))
    said = r"openvino:int8\+bf16 needs a CPU with bf16 instructions, and this one has none; use openvino:int8"
    with pytest.raises(BackendError, match=said):
        open_runner(bundle.path, "openvino:int8+bf16")
    assert main(["verify", str(bundle.path), "--backend", "openvino:int8+bf16"]) == 1
    assert "needs a CPU with bf16 instructions" in capsys.readouterr().err


def test_int8_that_is_slower_than_bf16_is_called_so():
    times = {"openvino:int8": 139.0, "openvino:int8+bf16": 125.0, "openvino:bf16": 120.0, "openvino:fp32": 649.0}
    assert describe_slow_int8(times) == (
        "INT8 is slower than BF16 here: openvino:int8+bf16 125 ms, openvino:bf16 120 ms"
    )
    assert describe_slow_int8(times | {"openvino:int8+bf16": 69.0}) == ""
    assert describe_slow_int8({"openvino:int8": 139.0}) == ""


def test_export_measures_the_pace_of_int8(bundle):
    told = measure_int8_pace(open_model(bundle.path))
    assert told.startswith("pace on this CPU, 1x")
    assert "openvino:int8 " in told
    assert "openvino:fp32 " in told
    assert ("openvino:int8+bf16 " in told) == HAS_BF16
    assert measure_int8_pace(open_model(open_bundle(bundle.path).path / "model.fp32.onnx")) == ""
