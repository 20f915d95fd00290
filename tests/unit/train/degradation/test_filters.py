from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sr_deploy.train.degradation.draws import KINDS, draw_batch
from sr_deploy.train.degradation.filters import (
    are_products,
    convolve,
    convolve_by_fft,
    convolve_lines,
    filter_samples,
    find_fast_length,
    reflect,
)
from sr_deploy.train.degradation.kernels import find_sizes, make_kernels
from sr_deploy.train.degradation.sharpen import gaussian_width, sharpen
from sr_deploy.train.recipe import SharpenRecipe


@pytest.mark.parametrize("size", [(160, 160), (97, 131), (21, 12), (7, 5), (1, 3)])
@pytest.mark.parametrize("way", [convolve, convolve_by_fft])
def test_filtering_equals_a_direct_convolution_with_each_samples_kernel(photographs, degradation, size, way):
    images = photographs[:, :, : size[0], : size[1]]
    kernels = make_kernels(draw_batch(degradation, 3, 0, 0, 4).stages[0].kernel, 21, torch.device("cpu"))
    filtered = way(images, kernels)
    assert filtered.shape == images.shape
    for image, kernel, result in zip(images.double().numpy(), kernels.double().numpy(), filtered.numpy(), strict=True):
        for channel in range(3):
            direct = ndimage.convolve(image[channel], kernel, mode="mirror")
            assert np.abs(result[channel] - direct).max() < 2e-6


def test_products_of_lines_are_found_and_filtered_as_lines(photographs, degradation):
    """Round Gaussians are products; sinc filters, plateaus and turned Gaussians are not."""
    draw = draw_batch(degradation, 3, 0, 0, 60).stages[0].kernel
    kernels = make_kernels(draw, 21, torch.device("cpu"))
    products = are_products(kernels)
    kinds = {KINDS[kind] for kind in draw.kind[products]}
    assert products[draw.kind == KINDS.index("isotropic")].all()
    assert kinds <= {"isotropic", "anisotropic", "generalized isotropic"}  # the others by chance alone
    assert not products[draw.kind == KINDS.index("sinc")].any()
    kernels = kernels[products][:4]
    assert (convolve_lines(photographs, kernels) - convolve_by_fft(photographs, kernels)).abs().max() < 2e-6


def test_what_is_left_out_of_kernels_does_not_show(photographs, degradation):
    """Samples of all sizes in one batch, each as if its whole kernel were used; those without one stay as they are."""
    count = 40
    images = photographs[:, :, :40, :40].repeat(10, 1, 1, 1)
    draw = draw_batch(degradation, 3, 0, 0, count).stages[1].kernel
    sizes, kernels = find_sizes(draw), make_kernels(draw, 21, torch.device("cpu"))
    assert {1, 21} < set(sizes)
    filtered = filter_samples(images, kernels, sizes)
    assert (filtered - convolve_by_fft(images, kernels)).abs().max() < 2e-6
    assert torch.equal(filtered[sizes == 1], images[sizes == 1])


def test_reflection_goes_on_where_the_image_is_smaller_than_the_border():
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    padded = reflect(row, (5, 4), (0, 0)).flatten().tolist()
    assert padded == [2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3]


def test_fast_lengths_have_small_factors():
    assert [find_fast_length(n) for n in (1, 97, 417, 420, 437)] == [4, 100, 420, 420, 440]


def test_sharpening_is_unsharp_masking_with_a_soft_mask(photographs):
    recipe = SharpenRecipe(enabled=True)
    assert gaussian_width(51) == pytest.approx(8.0)
    image = photographs[:1]
    result = sharpen(image, recipe)[0, 1].double().numpy()
    plain = image[0, 1].double().numpy()
    line = np.exp(-0.5 * (np.arange(-25, 26) / 8.0) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    residual = plain - ndimage.convolve(plain, kernel, mode="mirror")
    mask = ndimage.convolve((np.abs(residual) * 255 > 10).astype(float), kernel, mode="mirror")
    expected = mask * np.clip(plain + 0.5 * residual, 0, 1) + (1 - mask) * plain
    assert np.abs(result - expected).max() < 2e-3  # a pixel at the threshold may fall on the other side
    assert np.abs(result - expected).mean() < 1e-5
    assert np.abs(result - plain).max() > 0.05
    assert torch.equal(sharpen(torch.full((1, 3, 64, 64), 0.5), recipe), torch.full((1, 3, 64, 64), 0.5))
