"""What the inputs of a verification show: photographs, and drawings that bring out what photographs hide. No torch."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle import Shape
from sr_deploy.errors import InputError
from sr_deploy.measure.quality import LUMA_WEIGHTS
from sr_deploy.runners.inputs import photograph_batch

PHOTOGRAPH = "photograph"
_DARKEST = 8
_BLOCK = 4
_TEXT = "Sphinx of black quartz, judge my vow 0123456789 "
_LETTERS = 13


def draw_content(content: str, shape: Shape, channels: int, scale: int) -> NDArray[np.float32]:
    """A batch of inputs, always the same for the same arguments; every image of it is another one, if not `PURE`.

    Args:
        content: one of `CONTENTS`.
        shape: batch, height and width.
        channels: 3 (RGB) or 1 (gray).
        scale: of the network; photographs are shrunk by it.

    Returns:
        N x channels x H x W, float32 in [0, 1], contiguous; drawings have the levels of 8 bit.

    Raises:
        InputError: no such content.
    """
    if content in _PURE:
        color = np.array(_PURE[content] if channels == 3 else [round(float(np.dot(_PURE[content], LUMA_WEIGHTS)))])
        return _to_unit(np.broadcast_to(color[None, :, None, None], (shape.n, channels, shape.h, shape.w)))
    if content in (PHOTOGRAPH, "dark"):
        batch = photograph_batch(shape, channels, scale)
        return batch if content == PHOTOGRAPH else _to_unit(np.rint(batch * _DARKEST))
    if content not in _DRAWN:
        raise InputError(f"there is no content {content!r}; there are {', '.join(CONTENTS)}")
    batch_NHWC = np.stack([_DRAWN[content](index, shape.h, shape.w) for index in range(shape.n)])
    return _to_unit(batch_NHWC.transpose(0, 3, 1, 2)[:, :channels])


def _to_unit(levels_NCHW: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.ascontiguousarray(levels_NCHW.astype(np.float32) / np.float32(255))


def _draw_flat(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """One color: shows what borders and tiles add."""
    color = np.array([(96, 150, 200), (255, 255, 255), (0, 0, 0), (30, 220, 90)], np.uint8)[index % 4]
    return np.broadcast_to(color, (height, width, 3)).copy()


def _draw_checkerboard(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Black and white in turn: the highest frequency there is."""
    y, x = np.indices((height, width))
    return np.repeat((((y + x + index) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)


def _draw_saturated(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Squares of the eight purest colors: the ends of the range, all steps as high as can be."""
    draw = np.random.default_rng((1, index, height, width))
    small = draw.integers(0, 2, (-(-height // _BLOCK), -(-width // _BLOCK), 3), np.uint8) * 255
    large: NDArray[np.uint8] = small.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)[:height, :width].astype(np.uint8)
    return large


def _draw_noise(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Every sample by itself, all levels alike."""
    return np.random.default_rng((2, index, height, width)).integers(0, 256, (height, width, 3), np.uint8)


def _draw_gradient(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Ramps: red to the right, green downwards, blue against both."""
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    ramps = np.broadcast_arrays(x, y, 1 - (x + y) / 2)
    levels = np.rint(255 * np.stack(ramps, axis=2)).astype(np.uint8)
    return np.ascontiguousarray(np.roll(levels, index, axis=2))


def _draw_text(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Lines of small letters, dark on light in every other image of a batch."""
    from sr_deploy.imaging.sheet import draw_caption

    words = _TEXT[index % len(_TEXT) :] + _TEXT
    line = draw_caption(words.strip(), max(width, 10 * _LETTERS), _LETTERS)
    page = np.tile(line, (-(-height // line.shape[0]), 1, 1))[:height, :width]
    return np.ascontiguousarray(page if index % 2 == 0 else 255 - page)


_DRAWN: MappingProxyType[str, Callable[[int, int, int], NDArray[np.uint8]]] = MappingProxyType(
    {
        "text": _draw_text,
        "flat": _draw_flat,
        "checkerboard": _draw_checkerboard,
        "saturated": _draw_saturated,
        "noise": _draw_noise,
        "gradient": _draw_gradient,
    }
)

_PURE: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {
        "black": (0, 0, 0),
        "white": (255, 255, 255),
        "red": (255, 0, 0),
        "green": (0, 255, 0),
        "blue": (0, 0, 255),
    }
)
"""Every pixel of every image: what divides by a variance, or takes the logarithm of a sample, fails on them alone."""

PURE = tuple(_PURE)
"""Contents of one color, which say as much in small as in large; gray networks get their luma."""
VARIED = (PHOTOGRAPH, "text", "checkerboard", "saturated", "noise", "dark", "gradient", "flat")
"""The others; `dark` is a photograph in the nine darkest of 256 levels."""
CONTENTS = (*VARIED, *PURE)
