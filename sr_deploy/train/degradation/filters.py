"""Filtering a batch with a kernel for each sample; borders are reflected without repeating the outermost pixel.

Small kernels on a CPU by convolution, whose time goes by their size, and those that are the product of a column and a
row (round Gaussians, nearly half of all) by two convolutions with lines; all others by FFT. The kernels are symmetric
about their center, so their transforms are real numbers, which two small matrix products give; the image takes one real
FFT there and one back.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.train.degradation.groups import map_groups

# Side of kernels up to which a CPU is faster without FFT, with vectors of 16 numbers and of fewer.
_MAX_DIRECT = 17 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 15
_MIN_PRODUCT = 9  # side of kernels from which a CPU is faster with two lines
_NO_DIFFERENCE = 5e-7  # of a sum of 1: what FP32 loses of a kernel in any case
_SIMD_WIDTH = 16  # numbers that a vector instruction takes; torch lays channels side by side in it


def filter_samples(images_NCHW: Tensor, kernels_NKK: Tensor, sizes_N: NDArray[np.int64]) -> Tensor:
    """Convolve each sample's channels with its kernel, exact to about 1e-6 (for images in [0, 1]).

    Args:
        images_NCHW: float32, of any size: where a side is shorter than the kernel it is reflected more than once.
        kernels_NKK: float32, K odd, each symmetric about its center.
        sizes_N: on the host: side of the middle of each kernel that counts, odd; 1 leaves the sample as it is.
    """
    side = kernels_NKK.shape[-1]
    on_cpu = images_NCHW.device.type == "cpu"
    largest = _MAX_DIRECT if on_cpu else 1
    products_N = (sizes_N >= _MIN_PRODUCT) & are_products(kernels_NKK) if on_cpu else np.zeros(len(sizes_N), bool)
    sizes_N = np.where((sizes_N > largest) & ~products_N, side, sizes_N)

    def work(images: Tensor, run: slice) -> Tensor:
        size = int(sizes_N[run.start])
        if size == 1:
            return images
        edge = (side - size) // 2
        kernels = kernels_NKK[run, edge : side - edge, edge : side - edge]
        if products_N[run.start]:
            return convolve_lines(images, kernels)
        return convolve(images, kernels) if size <= largest else convolve_by_fft(images, kernels)

    return map_groups(work, images_NCHW, 2 * sizes_N + products_N)


def are_products(kernels_NKK: Tensor) -> NDArray[np.bool_]:
    """N, of kernels on the host: whether each is the product of its middle column and row, as far as FP32 tells."""
    columns, rows = _take_lines(kernels_NKK)
    difference_N = (kernels_NKK - columns[:, :, None] * rows[:, None]).abs().sum(dim=(1, 2))
    answer: NDArray[np.bool_] = (difference_N < _NO_DIFFERENCE).numpy()
    return answer


def convolve(images_NCHW: Tensor, kernels_NKK: Tensor) -> Tensor:
    """Sum products, as a grouped convolution."""
    return _convolve_strips(images_NCHW, kernels_NKK[:, None])


def convolve_lines(images_NCHW: Tensor, kernels_NKK: Tensor) -> Tensor:
    """The same with the middle column of each kernel, then with its middle row: right for those that `are_products`."""
    columns, rows = _take_lines(kernels_NKK)
    return _convolve_strips(images_NCHW, columns[:, None, :, None], rows[:, None, None])


def _take_lines(kernels_NKK: Tensor) -> tuple[Tensor, Tensor]:
    """N x K: middle columns; middle rows over the pixel in the middle."""
    middle = kernels_NKK.shape[-1] // 2
    columns, rows = kernels_NKK[:, :, middle], kernels_NKK[:, middle]
    return columns, rows / rows[:, middle, None]


def _convolve_strips(images_NCHW: Tensor, *kernels_N1KL: Tensor) -> Tensor:
    """Convolve with one kernel after another; together they reach as far to all sides.

    Each image is cut into strips, which overlap as far as the kernel reaches and count as channels of their own: three
    channels would leave most of a vector instruction empty.
    """
    count, channels, height, width = images_NCHW.shape
    reach = max(side // 2 for kernels in kernels_N1KL for side in kernels.shape[2:])
    strips = max(_SIMD_WIDTH // channels, 1)
    rows = -(-height // strips)  # of a strip's result
    groups = count * channels * strips
    padded = reflect(images_NCHW, (reach, reach), (reach, reach + rows * strips - height))
    pieces = padded.unfold(2, rows + 2 * reach, rows).transpose(3, 4)
    filtered = pieces.reshape(1, groups, -1, padded.shape[3])
    for kernels in kernels_N1KL:
        weights = kernels.expand(-1, channels * strips, -1, -1)
        filtered = F.conv2d(filtered, weights.reshape(groups, 1, *kernels.shape[2:]), groups=groups)
    return filtered.view(count, channels, strips * rows, width)[:, :, :height]


def convolve_by_fft(images_NCHW: Tensor, kernels_NKK: Tensor) -> Tensor:
    """Multiply spectra: faster for wide kernels that are no products of lines."""
    height, width = images_NCHW.shape[2:]
    reach = kernels_NKK.shape[-1] // 2
    rows, columns = find_fast_length(height + 2 * reach), find_fast_length(width + 2 * reach)
    padded = reflect(images_NCHW, (reach, columns - width - reach), (reach, rows - height - reach))
    spectrum = torch.fft.rfft2(padded)
    spectrum *= _transform(kernels_NKK, rows, columns)[:, None]
    filtered: Tensor = torch.fft.irfft2(spectrum, s=(rows, columns))
    # The padding is as wide as the kernel reaches, so what wraps around never gets into what is kept.
    return filtered[..., reach : reach + height, reach : reach + width]


def reflect(images_NCHW: Tensor, pad_width: tuple[int, int], pad_height: tuple[int, int]) -> Tensor:
    """Pad by reflection, `pad_width` (left, right) and `pad_height` (top, bottom) pixels; images may be smaller."""
    height, width = images_NCHW.shape[2:]
    if max(pad_width) < width and max(pad_height) < height:
        return F.pad(images_NCHW, (*pad_width, *pad_height), mode="reflect")
    device = images_NCHW.device
    images_NCHW = images_NCHW.index_select(2, reflected_positions(height, *pad_height).to(device))
    return images_NCHW.index_select(3, reflected_positions(width, *pad_width).to(device))


def find_fast_length(least: int) -> int:
    """The smallest multiple of 4 from `least` on with no prime factor above 13: an FFT's favorite lengths."""
    length = least + -least % 4
    while not _is_smooth(length):
        length += 4
    return length


def _is_smooth(number: int) -> bool:
    for prime in (2, 3, 5, 7, 11, 13):
        while number % prime == 0:
            number //= prime
    return number == 1


def reflected_positions(length: int, before: int, after: int) -> Tensor:
    """Where the pixels of a padded axis come from, as integers of [0, length)."""
    positions = torch.arange(-before, length + after)
    if length == 1:
        return torch.zeros_like(positions)
    period = 2 * (length - 1)
    positions = positions.remainder(period)
    return torch.minimum(positions, period - positions)


def _transform(kernels_NKK: Tensor, rows: int, columns: int) -> Tensor:
    """N x rows x (columns / 2 + 1), complex: the transforms of kernels centered at the origin.

    cos(a + b) = cos a cos b - sin a sin b; the sine terms of a sum over symmetric pairs vanish.
    """
    side = kernels_NKK.shape[-1]
    rows_RK = _waves(rows, rows, side, kernels_NKK.device)
    columns_CK = _waves(columns, columns // 2 + 1, side, kernels_NKK.device)
    real = rows_RK[0] @ kernels_NKK @ columns_CK[0].T - rows_RK[1] @ kernels_NKK @ columns_CK[1].T
    # As complex numbers: torch multiplies complex by real numbers ten times slower.
    return torch.complex(real, torch.zeros_like(real))


@lru_cache(maxsize=64)
def _waves(length: int, frequencies: int, side: int, device: torch.device) -> Tensor:
    """2 x frequencies x side: cosines and sines of 2 pi u x / length."""
    u = torch.arange(frequencies, dtype=torch.float64)[:, None]
    x = torch.arange(-(side // 2), side // 2 + 1, dtype=torch.float64)[None, :]
    angle = (u * x).remainder(length) * (2 * torch.pi / length)
    return torch.stack([angle.cos(), angle.sin()]).float().to(device)
