from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sr_deploy.measure import memory
from sr_deploy.measure.memory import find_available_memory


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       9000000 kB\nMemAvailable:   2000000 kB\n")
    (tmp_path / "max").write_text("1000000000\n")
    (tmp_path / "current").write_text("400000000\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", ((tmp_path / "max", tmp_path / "current"),))
    assert find_available_memory() == 600_000_000
    (tmp_path / "max").write_text("max\n")
    assert find_available_memory() == 2_000_000 * 1024
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert find_available_memory() is None


def test_the_limit_of_the_process_counts() -> None:
    pytest.importorskip("resource")
    script = (
        "import resource\n"
        "from sr_deploy.measure.memory import find_available_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
        "print(find_available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 10**9
