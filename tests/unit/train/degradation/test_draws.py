"""Probabilities and ranges, by drawing many; bounds of five standard deviations, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.train.degradation.draws import KINDS, NONE, SINC, draw_batch, take_samples

COUNT = 4000
BATCHES = 4000


@pytest.fixture(scope="module")
def samples(degradation):
    return draw_batch(degradation, 1, 0, 0, COUNT)


@pytest.fixture(scope="module")
def batches(degradation):
    return [draw_batch(degradation, 1, step, 0, 1) for step in range(BATCHES)]


def assert_share(hits, share):
    hits = np.asarray(hits)
    assert abs(hits.mean() - share) < 5 * np.sqrt(share * (1 - share) / len(hits)) + 1e-12


def assert_uniform(values, low, high):
    """Within the range, near its ends, and half of them below the middle."""
    values = np.asarray(values)
    assert values.min() >= low
    assert values.max() <= high
    assert values.min() < low + 0.02 * (high - low)
    assert values.max() > high - 0.02 * (high - low)
    assert_share(values < (low + high) / 2, 0.5)


@pytest.mark.parametrize(("stage", "blurred"), [(0, 1.0), (1, 0.8)])
def test_kinds_of_kernels_have_their_shares(samples, stage, blurred):
    kind = samples.stages[stage].kernel.kind
    assert_share(kind == NONE, 1 - blurred)
    assert_share(kind == SINC, 0.1 * blurred)
    for name, share in zip(KINDS[2:], (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True):
        assert_share(kind == KINDS.index(name), 0.9 * blurred * share)


@pytest.mark.parametrize(("stage", "widest", "noisiest", "scale"), [(0, 3.0, 30.0, 3.0), (1, 1.5, 25.0, 2.5)])
def test_ranges_of_samples(samples, stage, widest, noisiest, scale):
    draw = samples.stages[stage]
    assert_uniform(draw.kernel.sigma[:, 0], 0.2, widest)
    assert_uniform(draw.sigma, 1.0, noisiest)
    assert_uniform(draw.poisson_scale, 0.05, scale)
    assert_share(draw.gray, 0.4)
    assert draw.quality.min() == 30
    assert draw.quality.max() == 95
    for size in range(7, 22, 2):
        assert_share(draw.kernel.size == size, 1 / 8)
    elongated = np.isin(draw.kernel.kind, [3, 5, 7])
    round_ones = np.isin(draw.kernel.kind, [2, 4, 6])
    assert (draw.kernel.sigma[round_ones, 0] == draw.kernel.sigma[round_ones, 1]).all()
    assert (draw.kernel.rotation[round_ones] == 0).all()
    assert_uniform(draw.kernel.sigma[elongated, 1], 0.2, widest)
    assert_uniform(draw.kernel.rotation[elongated], -np.pi, np.pi)


def test_exponents(samples):
    kernel = samples.stages[0].kernel
    assert (kernel.beta[kernel.kind <= KINDS.index("anisotropic")] == 1).all()
    generalized = kernel.beta[np.isin(kernel.kind, [4, 5])]
    assert_share(generalized < 1, 0.5)
    assert_uniform(generalized[generalized < 1], 0.5, 1.0)
    assert_uniform(generalized[generalized >= 1], 1.0, 4.0)
    plateau = kernel.beta[np.isin(kernel.kind, [6, 7])]
    assert_share(plateau == 1, 0.5)
    assert_uniform(plateau[plateau > 1], 1.0, 2.0)


def test_cutoffs_depend_on_the_size(samples):
    kernel = samples.stages[0].kernel
    small = kernel.size < 13
    assert_uniform(kernel.cutoff[small], np.pi / 3, np.pi)
    assert_uniform(kernel.cutoff[~small], np.pi / 5, np.pi)
    assert_share(samples.final.kind == SINC, 0.8)
    assert set(samples.final.kind) == {NONE, SINC}
    assert_uniform(samples.final.cutoff, np.pi / 3, np.pi)


@pytest.mark.parametrize(
    ("stage", "shares", "factor_range"), [(0, (0.2, 0.7), (0.15, 1.5)), (1, (0.3, 0.4), (0.3, 1.2))]
)
def test_what_is_drawn_once_for_a_batch(batches, stage, shares, factor_range):
    draws = [batch.stages[stage] for batch in batches]
    (up, down), (smallest, greatest) = shares, factor_range
    factors = np.array([draw.factor for draw in draws])
    assert_share(factors > 1, up)
    assert_share(factors < 1, down)
    assert_uniform(factors[factors > 1], 1, greatest)
    assert_uniform(factors[factors < 1], smallest, 1)
    for mode in ("area", "bilinear", "bicubic"):
        assert_share([draw.mode == mode for draw in draws], 1 / 3)
        assert_share([batch.final_mode == mode for batch in batches], 1 / 3)
    assert_share([draw.gaussian for draw in draws], 0.5)
    assert_share([batch.jpeg_last for batch in batches], 0.5)


def test_ablations(degradation):
    one = draw_batch(degradation.model_copy(update={"orders": 1}), 1, 0, 0, 300)
    assert len(one.stages) == 1
    whole = draw_batch(degradation, 1, 0, 0, 300)
    silent = draw_batch(degradation.model_copy(update={"sinc": False}), 1, 0, 0, 300)
    for draw in (*(stage.kernel for stage in silent.stages), silent.final):
        assert SINC not in draw.kind
    assert (silent.final.kind == NONE).all()
    # Switching off leaves all other draws as they were.
    assert (one.stages[0].quality == whole.stages[0].quality).all()
    kept = whole.stages[0].kernel.kind != SINC
    assert (silent.stages[0].kernel.kind[kept] == whole.stages[0].kernel.kind[kept]).all()


def test_a_sample_has_the_same_parameters_in_any_batch(degradation):
    whole = draw_batch(degradation, 7, 3, 0, 10)
    part = draw_batch(degradation, 7, 3, 4, 2)
    assert part.stages[0].factor == whole.stages[0].factor
    for ours, theirs in ((part, take_samples(whole, slice(4, 6))),):
        assert (ours.crop == theirs.crop).all()
        assert (ours.final.cutoff == theirs.final.cutoff).all()
        for mine, other in zip(ours.stages, theirs.stages, strict=True):
            assert (mine.kernel.sigma == other.kernel.sigma).all()
            assert (mine.quality == other.quality).all()
    assert (draw_batch(degradation, 8, 3, 4, 2).crop != part.crop).all()
