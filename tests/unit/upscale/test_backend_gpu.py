"""`--backend auto` where nvidia-smi shows a GPU. The GPU is made up; engines, bundles and certificates are real."""

from __future__ import annotations

import shutil

import pytest

import sr_deploy
from sr_deploy.backends import BackendChoice, builders
from sr_deploy.backends.registry import parse_backend
from sr_deploy.bundle import Shape, open_bundle
from sr_deploy.engine.bundle import build_engines
from sr_deploy.errors import BackendError
from sr_deploy.gpus import Gpu, visible_gpus
from sr_deploy.model import open_model
from sr_deploy.runners.autotune import AutotuneResult
from sr_deploy.upscale.backend import choose_backend
from sr_deploy.verification.verify import verify_model

pytestmark = [
    pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed"),
    pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU"),
]
GPU = Gpu("NVIDIA GeForce RTX 4090", "sm89")


@pytest.fixture(scope="module")
def certified(make_bundle, tmp_path_factory):
    """Engines in FP32 and FP16, and the certificate of a CPU."""
    bundle = make_bundle("compact-x4", tmp_path_factory.mktemp("gpu"), fp16=True)
    build_engines(bundle, "tensorrt-rtx", compute_capabilities=["sm89"])
    verify_model(bundle.path, choices=[parse_backend("onnxruntime:fp16")])
    return bundle


@pytest.fixture
def bundle(certified, tmp_path, monkeypatch):
    """A copy, on a machine with that GPU and a cache that knows no times."""
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: (GPU,))
    monkeypatch.setattr("sr_deploy.runners.fastest.read_kept", lambda *_: (None, ""))
    shutil.copytree(certified.path, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


@pytest.fixture
def raced(monkeypatch):
    """What is timed against each other; the first of them wins."""
    seen = []

    def autotune(_, candidates, **__):
        seen.append([str(choice) for choice in candidates])
        return AutotuneResult(candidates[0], Shape(1, 32, 32), {str(candidates[0]): 1.0}, {})

    monkeypatch.setattr("sr_deploy.runners.autotune.autotune", autotune)
    return seen


def enter_run_on_gpu(bundle, **changes):
    """Let the certificate say that the FP16 engine was verified on the GPU."""
    certificate = bundle.stated_certificate()
    engine = next(record for record in bundle.engines() if record.precision == "fp16")
    (entry,) = (one for one in certificate.entries if one.backend == "onnxruntime:fp16")
    on_gpu = {
        "backend": "tensorrt-rtx:fp16",
        "backend_version": builders.sdk_version("tensorrt-rtx"),
        "artifact": engine.engine,
        "machine": GPU.name,
        "cpu_features": (),
    }
    added = entry.model_copy(update=on_gpu | changes)
    bundle.write_certificate(certificate.model_copy(update={"entries": (*certificate.entries, added)}))


def test_where_torch_sees_no_gpu_the_cpu_computes_and_that_is_said(bundle, raced, caplog):
    with caplog.at_level("WARNING", logger="sr_deploy"):
        chosen = choose_backend(open_model(bundle.path), "auto")
    assert chosen == BackendChoice("openvino")
    assert raced == [["openvino:fp32", "onnxruntime:fp32", "torch:fp32"]]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("--backend auto takes the CPU, although there is an NVIDIA GeForce RTX 4090: torch ")


def test_a_hidden_gpu_is_said_to_be_hidden(bundle, raced, monkeypatch, caplog):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with caplog.at_level("WARNING", logger="sr_deploy"):
        choose_backend(open_model(bundle.path), "auto")
    assert "torch sees no GPU with CUDA_VISIBLE_DEVICES=''" in caplog.text


def test_the_fastest_engine_that_the_certificate_covers_is_taken(bundle, raced, monkeypatch):
    monkeypatch.setattr("sr_deploy.upscale.backend._why_torch_sees_no_gpu", lambda: "")
    enter_run_on_gpu(bundle)
    assert choose_backend(open_model(bundle.path), "auto") == BackendChoice("tensorrt-rtx", "fp16")
    assert raced == [["tensorrt-rtx:fp16", "tensorrt-rtx:fp32", "torch:fp32"]]
    assert choose_backend(open_model(bundle.path), "auto", "cpu") == BackendChoice("openvino")


NOT_COVERED = {
    "never run": (None, "not verified on this machine with these versions; run: sr-deploy verify"),
    "another GPU": ({"machine": "NVIDIA GeForce RTX 3090"}, "not verified on this machine"),
    "another version": ({"backend_version": "1.0"}, "not verified on this machine"),
    "failed": ({"passed": False}, "its "),
}


@pytest.mark.parametrize("case", NOT_COVERED)
def test_an_engine_that_is_not_covered_is_left_out_with_the_reason(bundle, raced, monkeypatch, caplog, case):
    changes, reason = NOT_COVERED[case]
    monkeypatch.setattr("sr_deploy.upscale.backend._why_torch_sees_no_gpu", lambda: "")
    if changes is not None:
        enter_run_on_gpu(bundle, **changes)
    with caplog.at_level("INFO", logger="sr_deploy"):
        choose_backend(open_model(bundle.path), "auto")
    assert raced == [["tensorrt-rtx:fp32", "torch:fp32"]]
    assert f"tensorrt-rtx:fp16 left out: {reason}" in caplog.text


def test_a_gpu_that_is_asked_for_and_not_seen_is_an_error(bundle, raced):
    with pytest.raises(BackendError, match=r"NVIDIA GeForce RTX 4090, and torch .*; give --device cpu"):
        sr_deploy.Upscaler(bundle.path, device="cuda:0")


def test_engines_of_another_gpu_of_the_machine_are_not_taken(bundle, raced, monkeypatch):
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: (Gpu("NVIDIA H100", "sm90"), GPU))
    monkeypatch.setattr("sr_deploy.upscale.backend._why_torch_sees_no_gpu", lambda: "")
    enter_run_on_gpu(bundle)
    assert choose_backend(open_model(bundle.path), "auto") == BackendChoice("torch")
    assert choose_backend(open_model(bundle.path), "auto", "cuda:1") == BackendChoice("tensorrt-rtx", "fp16")
    assert raced == [["tensorrt-rtx:fp16", "tensorrt-rtx:fp32", "torch:fp32"]]
