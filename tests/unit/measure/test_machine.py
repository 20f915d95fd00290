from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sr_deploy.backends import PRECISIONS, Precision
from sr_deploy.measure import machine
from sr_deploy.measure.machine import Machine, describe_machine, has_multiplier, tool_versions, usable_cores

_CPUINFO = """processor\t: 0
model name\t: Example CPU 9000
flags\t\t: fpu avx2 avx512f amx_bf16 other

processor\t: 1
model name\t: Another
"""


def test_reads_what_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(_CPUINFO)
    (tmp_path / "meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 12 kB\n")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA RTX 4090, 24564 MiB, 580.65, 8.9'\n")
    smi.chmod(0o755)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    described = describe_machine()
    assert described.cpu == "Example CPU 9000"
    assert described.features == ("avx2", "avx512f", "amx_bf16")
    assert described.memory_gib == 16
    assert described.gpus == ("NVIDIA RTX 4090, 24564 MiB, driver 580.65, sm89",)
    assert described.cores == len(os.sched_getaffinity(0))
    assert described.python == platform.python_version()
    cores = f"{described.cores} core{'s' if described.cores > 1 else ''}"
    assert described.title() == (
        f"{cores} of Example CPU 9000 (avx2, avx512f, amx_bf16), 16 GiB, "
        "NVIDIA RTX 4090, 24564 MiB, driver 580.65, sm89"
    )


def test_falls_back_where_the_system_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    smi.chmod(0o755)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "nothing")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    described = describe_machine()
    assert described.cpu == (platform.processor() or platform.machine())
    assert described.features == ()
    assert described.gpus == ()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert described.memory_gib == pytest.approx(physical, abs=0.1)
    assert Machine.model_validate_json(described.model_dump_json()) == described


def test_cores_are_those_that_may_be_used() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no CPU affinity on this system")
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


def test_versions_without_imports() -> None:
    program = (
        "import sys, json; from sr_deploy.measure.machine import tool_versions, describe_machine; describe_machine(); "
        "print(json.dumps([tool_versions(), [name for name in ('torch', 'onnx', 'pyvips') if name in sys.modules]]))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip().endswith("[]]")
    versions = tool_versions()
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert next(iter(versions)) == "sr-deploy"


@pytest.mark.parametrize(
    ("flags", "able"),
    [
        ("avx2 fma", {"fp32"}),
        ("avx2 avx512f avx512bw", {"fp32"}),  # oneDNN emulates bf16 with it
        ("avx2 avx_vnni", {"fp32", "int8"}),
        ("avx512f avx512bw avx512_vnni avx512_bf16", {"fp32", "bf16", "int8"}),
        ("fphp asimddp bf16 i8mm", {"fp32", "fp16", "bf16", "int8"}),
        ("", {"fp32"}),
    ],
)
def test_which_products_have_instructions(
    flags: str, able: set[Precision], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t: {flags}\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert {precision for precision in PRECISIONS if has_multiplier(precision)} == able
