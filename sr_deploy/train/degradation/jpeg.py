"""JPEG compression of tensors, with a quality for each sample: what libjpeg does, without files.

ITU-T T.81 with the tables of its annex K, libjpeg's scaling of them by quality, and chroma halved along both sides
(4:2:0), as most JPEG files have it. Entropy coding loses nothing, so it is left out.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_deploy.measure.quality import LUMA_WEIGHTS

# T.81, tables K.1 and K.2, row by row.
_LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)  # fmt: skip
_BLOCK = 8
_MCU = 16  # pixels of a side that are coded together: two blocks of luma, one of chroma
_MIDDLE = 128.0


def compress_jpeg(images_NCHW: Tensor, quality_N: Tensor) -> Tensor:
    """Compress and decompress.

    Agrees with libjpeg (4:2:0, its slower DCT, smooth chroma upsampling) to less than a level of 255 on average: only
    its roundings between the steps are missing.

    Args:
        images_NCHW: N x 3 x H x W, float32, in [0, 1]; not rounded to 8 bit before.
        quality_N: integers of 1 to 100.

    Returns:
        The same shape, in [0, 1], on levels of 255.
    """
    height, width = images_NCHW.shape[2:]
    # libjpeg fills the last blocks by repeating the outermost pixels.
    room = (-width % _MCU, -height % _MCU)
    padded = F.pad(images_NCHW, (0, room[0], 0, room[1]), mode="replicate") if any(room) else images_NCHW
    luma_table, chroma_table = scale_tables(quality_N.to(images_NCHW.device))
    luma = _quantize(_to_luma(padded).sub_(_MIDDLE)[:, None], luma_table)[:, 0]
    chroma = _quantize(_to_halved_chroma(padded), chroma_table)
    return _to_color(luma.add_(_MIDDLE), chroma)[..., :height, :width]


def scale_tables(quality_N: Tensor) -> tuple[Tensor, Tensor]:
    """Quantization tables of luma and chroma, N x 64, for qualities of 1 to 100 on the device."""
    luma, chroma = _tables_of_qualities(quality_N.device)
    return luma[quality_N], chroma[quality_N]


def _to_luma(images_NCHW: Tensor) -> Tensor:
    """N x H x W, in levels of 255."""
    red, green, blue = images_NCHW.unbind(1)
    luma = red * (255 * LUMA_WEIGHTS[0])
    return luma.add_(green, alpha=255 * LUMA_WEIGHTS[1]).add_(blue, alpha=255 * LUMA_WEIGHTS[2])


def _to_halved_chroma(images_NCHW: Tensor) -> Tensor:
    """N x 2 x H/2 x W/2: Cb and Cr around 0, in levels of 255. Conversion and averaging are linear: averages first."""
    # In two steps, whole rows first: four times as fast on a CPU as avg_pool2d.
    pairs = images_NCHW[:, :, 0::2] + images_NCHW[:, :, 1::2]
    half = (pairs[..., 0::2] + pairs[..., 1::2]).mul_(0.25)
    luma = _to_luma(half)
    blue = half[:, 2] * 255 - luma
    red = half[:, 0] * 255 - luma
    return torch.stack([blue / (2 * (1 - LUMA_WEIGHTS[2])), red / (2 * (1 - LUMA_WEIGHTS[0]))], dim=1)


def _to_color(luma_NHW: Tensor, chroma_NCHW: Tensor) -> Tensor:
    # libjpeg's "fancy" upsampling weighs the nearer sample 3/4 and the farther 1/4: bilinear, half-pixel centers.
    blue, red = _double(_double(chroma_NCHW, 3), 2).unbind(1)
    to_red, to_blue = 2 * (1 - LUMA_WEIGHTS[0]), 2 * (1 - LUMA_WEIGHTS[2])
    count, height, width = luma_NHW.shape
    color = luma_NHW.new_empty(count, 3, height, width)
    torch.add(luma_NHW, red, alpha=to_red, out=color[:, 0])
    torch.add(luma_NHW, red, alpha=-to_red * LUMA_WEIGHTS[0] / LUMA_WEIGHTS[1], out=color[:, 1])
    color[:, 1].add_(blue, alpha=-to_blue * LUMA_WEIGHTS[2] / LUMA_WEIGHTS[1])
    torch.add(luma_NHW, blue, alpha=to_blue, out=color[:, 2])
    return color.round_().clamp_(0.0, 255.0).mul_(1 / 255)


def _double(planes_NCHW: Tensor, axis: int) -> Tensor:
    """Twice as many places along an axis, each 3/4 of the nearer and 1/4 of the farther one; borders are repeated."""
    length = planes_NCHW.shape[axis]
    shape = list(planes_NCHW.shape)
    shape[axis] = 2 * length
    doubled = planes_NCHW.new_empty(shape)
    quarter = planes_NCHW * 0.25
    before, after = quarter.narrow(axis, 0, length - 1), quarter.narrow(axis, 1, length - 1)
    # Between each two neighbors lie two places: the first is nearer to the one before, the second to the one after.
    inner = torch.unflatten(doubled.narrow(axis, 1, 2 * length - 2), axis, (length - 1, 2))
    torch.add(after, planes_NCHW.narrow(axis, 0, length - 1), alpha=0.75, out=inner.select(axis + 1, 0))
    torch.add(before, planes_NCHW.narrow(axis, 1, length - 1), alpha=0.75, out=inner.select(axis + 1, 1))
    doubled.select(axis, 0).copy_(planes_NCHW.select(axis, 0))
    doubled.select(axis, 2 * length - 1).copy_(planes_NCHW.select(axis, length - 1))
    return doubled


def _quantize(planes_NCHW: Tensor, table_NF: Tensor) -> Tensor:
    """Round each block's DCT coefficients to multiples of the table; planes within -128 to 127, kept there.

    Coefficients stay where their block's pixels are, so nothing is rearranged.
    """
    count, channels, height, width = planes_NCHW.shape
    there, back = _line_transforms(planes_NCHW.device)
    steps = table_NF.view(count, 1, 1, _BLOCK, _BLOCK).repeat(1, 1, 1, 1, width // _BLOCK).flatten(3)
    coefficients = _transform_blocks(planes_NCHW, there).view(count, channels, height // _BLOCK, -1)
    coefficients.mul_(1 / steps).round_().mul_(steps)
    return _transform_blocks(coefficients.view_as(planes_NCHW), back).clamp_(-_MIDDLE, 255.0 - _MIDDLE)


def _transform_blocks(planes_NCHW: Tensor, pair: Tensor) -> Tensor:
    """Multiply each block by a matrix from the left, and by its transpose from the right.

    Lines are done two blocks at once, with the matrix twice on the diagonal: a third of the time on a CPU.
    """
    lines = planes_NCHW.reshape(-1, 2 * _BLOCK) @ pair.T
    return (pair[:_BLOCK, :_BLOCK] @ lines.view(-1, _BLOCK, planes_NCHW.shape[3])).view(planes_NCHW.shape)


@lru_cache(maxsize=8)
def _line_transforms(device: torch.device) -> tuple[Tensor, Tensor]:
    """The DCT of a line of 8 pixels and its inverse, each twice on the diagonal of a 16 x 16 matrix."""
    frequency = torch.arange(_BLOCK, dtype=torch.float64)[:, None]
    place = torch.arange(_BLOCK, dtype=torch.float64)[None, :]
    line = torch.cos((2 * place + 1) * frequency * math.pi / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    line[0] /= math.sqrt(2)
    pair = torch.kron(torch.eye(2), line).float().to(device)
    return pair, pair.T.contiguous()


@lru_cache(maxsize=8)
def _tables_of_qualities(device: torch.device) -> Tensor:
    """2 x 101 x 64, by quality, by libjpeg's rule; there is no quality 0.

    Below 50 the table is multiplied by 50 / quality, from there on by 2 - quality / 50; in whole percents, rounded,
    and kept within 1 to 255.
    """
    quality = torch.arange(101).clamp(min=1)
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None]
    tables = torch.tensor([_LUMA_TABLE, _CHROMA_TABLE])[:, None]
    return ((tables * percent + 50) // 100).clamp(1, 255).float().to(device)
