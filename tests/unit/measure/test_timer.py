from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from sr_deploy.errors import InputError
from sr_deploy.measure.timer import TimingSummary, peak_memory_bytes, reset_peak_memory, summarize_timings, time_call


def test_summary_worked_by_hand() -> None:
    summary = summarize_timings([index / 1000 for index in range(101, 0, -1)])  # 1 to 101 ms
    assert summary.median_ms == pytest.approx(51)
    assert summary.p95_ms == pytest.approx(96)
    assert summary.min_ms == pytest.approx(1)
    assert summary.spread == pytest.approx(50 / 51)


def test_one_timing_is_all_figures() -> None:
    assert summarize_timings([0.25]) == TimingSummary(median_ms=250, p95_ms=250, min_ms=250, spread=0)


@pytest.mark.parametrize("timings", [[], [0.1, 0.0], [-1.0]])
def test_refuses_timings_that_cannot_be(timings: list[float]) -> None:
    with pytest.raises(InputError, match="needs timings above 0 s"):
        summarize_timings(timings)


def test_times_a_call() -> None:
    assert 0.02 <= time_call(lambda: time.sleep(0.02)) < 0.5


def test_peak_memory_sees_an_allocation() -> None:
    before = peak_memory_bytes()
    block = np.ones(96 * 2**20, np.uint8)
    assert peak_memory_bytes() >= before
    if reset_peak_memory():
        with_block = peak_memory_bytes()
        del block
        assert reset_peak_memory()
        assert with_block - peak_memory_bytes() > 80 * 2**20


def test_peak_memory_is_of_this_process_alone() -> None:
    block = np.ones(256 * 2**20, np.uint8)
    program = "from sr_deploy.measure.timer import peak_memory_bytes; print(peak_memory_bytes())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 5 * 2**20 < int(answer.stdout) < block.nbytes
