from __future__ import annotations

import pytest

from sr_deploy.errors import BackendError
from sr_deploy.measure.machine import has_multiplier
from sr_deploy.measure.peak import measure_peaks_apart


def test_what_the_cpu_reaches_is_measured() -> None:
    peaks = measure_peaks_apart("cpu", threads=1)
    assert (peaks.device, peaks.threads) == ("cpu", 1)
    known = {"fp32", *(precision for precision in ("bf16", "int8") if has_multiplier(precision))}
    assert set(peaks.matrix_gflops) - {"fp16"} == known
    # One core of any processor of these years; a unit that is off by a thousand would be outside.
    assert 1 < peaks.matrix_gflops["fp32"] < 1000
    assert 0.1 < peaks.copy_gb_per_second < 1000


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BackendError, match="the peak of cuda:99 could not be measured: "):
        measure_peaks_apart("cuda:99", threads=1)
