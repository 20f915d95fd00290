"""What of the script for GPUs needs none: how it reads a timeline, what it writes, and how it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sr_deploy.measure.machine import describe_machine

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/gpu_pipeline.py")


def event(category, name, begin, duration):
    return {"cat": category, "name": name, "ts": begin, "dur": duration}


def test_copies_are_counted_by_kind_and_by_what_they_overlap(script):
    up, down = "Memcpy HtoD (Pinned -> Device)", "Memcpy DtoH (Device -> Pageable)"
    timeline = script.read_timeline([
        event("kernel", "conv", 10, 10), event("kernel", "conv", 30, 10), {"cat": "cpu_op", "name": "aten::conv2d"},
        event("gpu_memcpy", up, 0, 10), event("gpu_memcpy", up, 15, 10), event("gpu_memcpy", down, 20, 10),
        event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 12, 2), {"ph": "M"},
    ])  # fmt: skip
    assert (timeline.kernels, timeline.copies) == (2, {up: 2, down: 1})
    assert timeline.hidden == {up: 1, down: 0}
    outcome = script.Outcome("frames", 4, 100.0, 160.0, 144.0, 0.42, 0.9, timeline)
    row = script.format_table([outcome], 8e14).splitlines()[-1]
    assert row == "| frames | 4 | 100.0 /s | 160.0 /s | 42 % | 144.0 /s | 90 % | 1 of 3 | 1 |"


def test_results_name_machine_and_versions(script):
    run = script.describe_run("torch", "absent")
    assert run["machine"] == describe_machine().title()
    assert run["versions"] == f"torch {torch.__version__}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_a_line(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu_pipeline.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: torch sees no GPU: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
