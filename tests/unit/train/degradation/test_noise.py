from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from sr_deploy.train.degradation.noise import add_gaussian_noise, add_poisson_noise
from sr_deploy.train.degradation.poisson import build_alias_tables, draw_poisson_noise


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_gaussian_noise_has_each_samples_strength_and_color(generator):
    images = torch.full((3, 3, 128, 128), 0.5)
    sigma, gray = np.array([2.0, 10.0, 25.0]), np.array([False, True, False])
    noise = (add_gaussian_noise(images, sigma, gray, generator) - images) * 255
    assert noise.std((1, 2, 3)).tolist() == pytest.approx(sigma, rel=0.02)
    assert noise.mean((1, 2, 3)).abs().max() < 0.3
    assert torch.equal(noise[1, 0], noise[1, 1])
    assert torch.equal(noise[1, 0], noise[1, 2])
    assert abs(np.corrcoef(noise[0, 0].flatten(), noise[0, 1].flatten())[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[0, 0].flatten(), noise[2, 0].flatten())[0, 1]) < 0.03


def test_results_are_clipped(generator):
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    ends = np.full(2, 30.0), np.zeros(2, bool), generator
    for noisy in (add_gaussian_noise(images, *ends), add_poisson_noise(images + 0.0, *ends)):
        assert noisy.min() >= 0
        assert noisy.max() <= 1


@pytest.mark.parametrize("levels", [1, 2, 3, 16, 100, 129, 256])
def test_poisson_numbers_have_their_distribution(generator, levels):
    # As many levels as asked for; the photons for white follow from their number, rounded up to a power of two.
    values = torch.linspace(0, 255, levels).round() if levels > 1 else torch.tensor([200.0])
    images = values.repeat(-(-120_000 // levels))[: 3 * 40_000].view(1, 3, 200, 200)
    photons = 2 ** int(np.ceil(np.log2(levels)))
    noise = draw_poisson_noise(images, generator)
    for value in values[:: max(levels // 3, 1)].tolist():
        mean = value / 255 * photons
        counts = (noise[images == value].double() + value / 255) * photons
        assert torch.allclose(counts, counts.round(), atol=1e-3)
        counts = counts.round().long().numpy()
        assert counts.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(mean / len(counts)) + 1e-9)
        if mean > 0 and len(counts) > 1000:
            observed = np.bincount(counts, minlength=600)[:600]
            expected = stats.poisson.pmf(np.arange(600), mean) * len(counts)
            often = expected > 5
            chi_squared = ((observed - expected)[often] ** 2 / expected[often]).sum()
            assert chi_squared < stats.chi2.ppf(0.9999, often.sum())


def test_samples_have_their_own_number_of_levels(generator):
    two, many = torch.tensor([0.0, 255.0]).repeat(8192), torch.arange(256.0).repeat(64)
    noise = draw_poisson_noise(torch.stack([two, many]).view(2, 1, 128, 128), generator)
    white = torch.stack([two, many]).view(2, 1, 128, 128) == 255
    assert noise[0][white[0]].var() == pytest.approx(1 / 2, rel=0.1)
    assert noise[1][white[1]].var() == pytest.approx(1 / 256, rel=0.6)


def test_poisson_noise_is_scaled_and_gray_where_asked(photographs, generator):
    scale, gray = np.array([0.0, 1.0, 1.0, 0.5]), np.array([False, True, False, False])
    noisy = add_poisson_noise(photographs, scale, gray, generator)
    assert torch.equal(noisy[0], photographs[0])
    noise = noisy - photographs
    free = ((noisy > 0) & (noisy < 1)).all(1)
    assert torch.allclose(noise[1, 0][free[1]], noise[1, 2][free[1]], atol=1e-6)
    assert abs(np.corrcoef(noise[2, 0].flatten(), noise[2, 2].flatten())[0, 1]) < 0.05
    assert noise[3].std() < noise[2].std()


def test_alias_tables_give_back_their_probabilities(random):
    probability = random.dirichlet(np.full(17, 0.3), 50)
    probability[0] = 0
    probability[0, 5] = 1
    share, alias = build_alias_tables(probability)
    rebuilt = np.zeros_like(probability)
    for row in range(len(probability)):
        rebuilt[row] += share[row] / 17
        np.add.at(rebuilt[row], alias[row], (1 - share[row]) / 17)
    assert np.abs(rebuilt - probability).max() < 1e-12


def test_rare_levels_count_too(generator):
    """Levels in a single row, which a look at some rows misses, still decide how many photons there are."""
    images = torch.tensor([0.0, 255.0]).repeat(1, 1, 128, 64)
    images[0, 0, 5] = torch.arange(128.0)
    noise = draw_poisson_noise(images, generator)
    counts = noise[images == 255].double() * 256
    assert torch.allclose(counts, counts.round(), atol=1e-3)  # 129 levels: 256 photons for white
    assert not torch.allclose(counts / 2, (counts / 2).round(), atol=1e-3)
