from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from sr_deploy.arch.quantized import LEVELS
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.ranges import BINS, Histogram, make_range


def feed(method: str, batches, **options) -> float:
    one = make_range(Int8Options(method=method, **options))
    for batch in batches:
        one.add(batch)
    return one.limit()


def batches_of(count: int = 12):
    random = np.random.default_rng(1)
    for number in range(count):
        yield (random.laplace(size=(1, 4, 50, 50)) * (1 + number)).astype(np.float32)


def test_max_is_the_greatest_magnitude():
    assert feed("max", batches_of()) == max(float(np.abs(batch).max()) for batch in batches_of())


@pytest.mark.parametrize("percent", [99.0, 99.99])
def test_percentile_is_near_that_of_all_values(percent):
    values = np.abs(np.concatenate([batch.ravel() for batch in batches_of()]))
    found = feed("percentile", batches_of(), percentile=percent)
    exact = np.percentile(values, percent)
    assert found == pytest.approx(exact, abs=4 * float(values.max()) / BINS)
    assert found < values.max()


def test_mse_has_no_more_error_than_any_clip_tried_by_hand():
    values = np.concatenate([batch.ravel() for batch in batches_of()]).astype(np.float64)

    def error(limit: float) -> float:
        step = limit / LEVELS
        return float(np.mean((values - np.clip(np.rint(values / step), -LEVELS, LEVELS) * step) ** 2))

    found = error(feed("mse", batches_of()))
    greatest = np.abs(values).max()
    assert found <= 1.02 * min(error(greatest * share) for share in np.linspace(0.05, 1, 39))
    assert found < 0.8 * error(greatest)


def test_a_wider_batch_loses_no_counts():
    histogram = Histogram()
    for factor in (0.0, 0.01, 1.0, 1000.0, 3.0):
        histogram.add(np.full((3, 5), factor, np.float32))
    assert histogram.counts.sum() == 75
    assert histogram.counts.shape == (BINS,)
    assert histogram.greatest == 1000
    assert histogram.width * BINS > 1000
    assert histogram.percentile(99) == pytest.approx(1000, rel=1e-3)


def test_nothing_but_zeros_has_no_range():
    zeros = [np.zeros((1, 2, 3, 3), np.float32)]
    assert [feed(method, zeros) for method in ("max", "mse", "percentile")] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", ["max", "mse", "percentile"])
def test_memory_does_not_grow_with_the_set(method):
    def peak(count: int) -> int:
        tracemalloc.start()
        feed(method, batches_of(count))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(2)
    assert peak(60) < 1.2 * peak(6)
