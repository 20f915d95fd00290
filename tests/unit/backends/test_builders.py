from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sr_deploy import deps, gpus
from sr_deploy.backends import builders
from sr_deploy.backends.registry import get_builder
from sr_deploy.errors import BackendError, InputError, MissingDependencyError
from sr_deploy.gpus import Gpu, visible_gpus

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")


def test_version_is_known_without_an_import():
    code = (
        "import sys; from sr_deploy.backends import builders; print(builders.sdk_version('tensorrt-rtx')); "
        "print(sorted({'tensorrt_rtx', 'polygraphy', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(builders.sdk_version("tensorrt-rtx")), "[]"]


@needs_rtx
def test_selected_sdk_is_polygraphys():
    code = (
        "from sr_deploy.backends.registry import get_builder; from sr_deploy.errors import BackendError\n"
        "import polygraphy.backend.onnx\n"  # as --bisect does, and no choice of an SDK
        "sdk = get_builder('tensorrt-rtx').select_sdk()\n"
        "from polygraphy.backend.trt import util\n"
        "print(sdk.__name__, util.trt.__version__ == sdk.__version__)\n"
        "try: get_builder('tensorrt').select_sdk()\n"
        "except BackendError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "tensorrt_rtx True",
        "this process has chosen another TensorRT SDK than tensorrt; use it in a process of its own",
    ]


@needs_rtx
def test_capabilities_come_from_the_sdk_and_in_its_order():
    known = builders.compute_capabilities("tensorrt-rtx")
    assert {"sm75", "sm80", "sm86", "sm89", "sm120"} <= set(known)
    assert not {"none", "current"} & set(known)
    assert builders.resolve_compute_capabilities("tensorrt-rtx", ()) == known
    assert builders.resolve_compute_capabilities("tensorrt-rtx", ("8.9", "SM_86", "sm89", "75")) == (
        "sm75",
        "sm86",
        "sm89",
    )
    with pytest.raises(InputError, match=r"does not build for compute capability 'sm90'; known: sm75"):
        builders.resolve_compute_capabilities("tensorrt-rtx", ("sm90",))


def test_data_center_sdk_takes_no_capabilities():
    assert builders.resolve_compute_capabilities("tensorrt", ()) == ()
    with pytest.raises(InputError, match="builds for the GPU it runs on alone"):
        builders.resolve_compute_capabilities("tensorrt", ("sm90",))


def test_absent_sdk_names_the_command(monkeypatch):
    monkeypatch.setattr(deps, "is_installed", lambda module: False)
    reason = builders.why_not_buildable("tensorrt-rtx")
    assert reason == "tensorrt_rtx is not installed; run: pip install 'sr-deploy[rtx]'"
    assert "pip install 'sr-deploy[tensorrt]'" in str(builders.why_not_buildable("tensorrt"))


@pytest.mark.skipif(deps.is_installed("tensorrt"), reason="tensorrt is installed")
def test_selecting_an_absent_sdk_names_the_command(monkeypatch):
    monkeypatch.delitem(sys.modules, "polygraphy.config", raising=False)
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "0")
    with pytest.raises(MissingDependencyError, match="the tensorrt backend needs tensorrt, which is not installed"):
        get_builder("tensorrt").select_sdk()


@needs_rtx
def test_rtx_builds_without_a_gpu():
    assert builders.why_not_buildable("tensorrt-rtx") is None


def fake_driver(folder: Path, answer: str, code: int = 0) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{answer}'\nexit {code}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Gives a folder whose nvidia-smi is the one that is found; the driver's library is not."""
    monkeypatch.setattr(gpus, "_LIBRARY", "libnosuch.so")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gpus._ask_once.cache_clear()
    yield tmp_path
    gpus._ask_once.cache_clear()


def test_gpus_are_read_from_the_driver(driver, monkeypatch):
    fake_driver(driver, r"NVIDIA GeForce RTX 4090, 8.9\nNVIDIA H200, 9.0\n")
    assert visible_gpus() == (Gpu("NVIDIA GeForce RTX 4090", "sm89"), Gpu("NVIDIA H200", "sm90"))
    assert builders.describe_target("tensorrt", ()) == "NVIDIA GeForce RTX 4090"
    monkeypatch.setattr(deps, "is_installed", lambda module: True)
    assert builders.why_not_buildable("tensorrt") is None


def test_no_gpu_means_no_data_center_engine(driver, monkeypatch):
    fake_driver(driver, r"NVIDIA-SMI has failed\n", code=9)
    assert visible_gpus() == ()
    with pytest.raises(BackendError, match="no NVIDIA GPU is visible"):
        builders.describe_target("tensorrt", ())
    monkeypatch.setattr(deps, "is_installed", lambda module: True)
    assert "builds on the GPU that will run the engine" in str(builders.why_not_buildable("tensorrt"))


def test_target_of_rtx_is_its_capabilities():
    assert builders.describe_target("tensorrt-rtx", ("sm86", "sm120")) == "sm86+sm120"


def test_other_backends_are_no_tensorrt():
    with pytest.raises(InputError, match="for 'openvino'; they are for: tensorrt, tensorrt-rtx"):
        builders.sdk_version("openvino")


def test_what_older_gpus_lack():
    every = ("sm75", "sm86", "sm89", "sm90", "sm120")
    reason = "no FP8, which begins with sm89 (Ada)"
    assert builders.find_lacking("fp8", every) == {"sm75": reason, "sm86": reason}
    assert builders.find_lacking("bf16", every) == {"sm75": "no BF16"}
    assert builders.find_lacking("bf16", ("sm86",)) == builders.find_lacking("int8", every) == {}
    assert builders.find_lacking("fp16", every, fp32_matrices=True) == {"sm75": "no products of FP32 matrices"}
