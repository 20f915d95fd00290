"""Tests of real GPUs run here on the simulated one: what is wrong in them shows before a machine is at hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILES = ["tests/gpu/test_cuda_graph.py", "tests/gpu/test_upscale.py"]
LEFT_OUT = "not pageable and not full"
"""A timeline of the GPU, and memory that is really taken."""


def test_tests_of_graphs_and_tiles_pass_on_the_gpu_that_is_made_up() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-p", "tests.unit.gpu.plugin"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))}
    done = subprocess.run(
        [*words, "-k", LEFT_OUT, *FILES], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found = re.search(r"(\d+) passed, 2 deselected", done.stdout)
    assert found is not None, done.stdout[-3000:]
    assert int(found[1]) >= 14
