"""How wide a halo has to be for a network that looks further than can be paid for: measured on the picture itself.

Two windows that overlap see the same pixels, one of them near its edge, the other deep inside. How far they differ, as
a function of the distance to that edge, is the error that a halo of that width leaves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.opening import Pixels
from sr_deploy.measure.quality import psnr
from sr_deploy.upscale.blend import ramp

STEP = 8
"""Halos that are tried are multiples of this."""
MAX_PROBED_HALO = 64
"""No wider halo is chosen by itself."""
_PATCH = (48, 384)  # height and width of a probe's windows: half of the width between them, and little work
_COLUMNS = 8  # places that are looked at for detail, along each side


def blend_of(halo: int) -> int:
    """How wide a strip is blended: the wider, the nearer to the windows' edges its ends come."""
    return halo // 4


def probe_halo(
    infer: Callable[[Pixels], NDArray[np.float32]],
    samples: Pixels,
    budget_db: float,
    *,
    scale: int,
    multiple: int = 1,
    window: tuple[int, int] | None = None,
) -> int | None:
    """Width of the narrowest halo whose seams are expected to keep to the budget, or else the widest.

    Args:
        infer: upscales a window, H x W x C to 1 x C x H x W.
        samples: the picture.
        budget_db: PSNR (peak 1) over blended strips.
        scale: of the network.
        multiple: of a window's sides and places.
        window: the only height and width that the runner takes; None: it takes any.

    Returns:
        None where the picture is too small to tell.
    """
    errors = measure_edge_errors(infer, samples, scale=scale, multiple=multiple, window=window)
    halos = [halo for halo in range(STEP, MAX_PROBED_HALO + 1, STEP) if halo + blend_of(halo) <= len(errors)]
    if not halos:
        return None
    return next((halo for halo in halos if expect_seam_db(errors, halo) >= budget_db), MAX_PROBED_HALO)


def measure_edge_errors(
    infer: Callable[[Pixels], NDArray[np.float32]],
    samples: Pixels,
    *,
    scale: int,
    multiple: int = 1,
    window: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Mean squared error (outputs clamped to [0, 1]) at each distance from a window's edge, in low-resolution pixels.

    Two inferences, at the place with most detail. Empty where the picture is too small. Arguments as `probe_halo`.
    """
    height, width = (side // multiple * multiple for side in samples.shape[:2])
    if window is None:
        window = min(_PATCH[0], height), min(_PATCH[1], width * 2 // 3)
    h, w = (side // multiple * multiple for side in window)
    shift = min(w // 2, width - w) // multiple * multiple
    if not 0 < h <= height or shift < STEP:
        return np.empty(0)
    top, left = _find_detail(samples[:height, :width], (h, w + shift), (h // 4, w), multiple)
    near = np.clip(infer(samples[top : top + h, left : left + w]), 0, 1)
    deep = np.clip(infer(samples[top : top + h, left + shift : left + shift + w]), 0, 1)
    rows = slice(h * scale // 4, h * scale - h * scale // 4)  # what lies above and below is cut alike in both
    known = (w - shift) // 2  # further in, the deep window's own left edge would be as near
    near = near[:, :, rows, (w - known) * scale :]
    apart = near - deep[:, :, rows, (w - shift - known) * scale : (w - shift) * scale]
    squares = np.mean(np.square(apart, dtype=np.float64), axis=(0, 1, 2))
    return np.ascontiguousarray(squares.reshape(known, scale).mean(axis=1)[::-1])


def expect_seam_db(errors: NDArray[np.float64], halo: int) -> float:
    """PSNR over the blended strip: errors of the two neighbors, independent, each with its weight."""
    blend = blend_of(halo)
    after = ramp(2 * blend).astype(np.float64)
    distance = halo - blend + np.arange(2 * blend)  # of the tile that comes after, from its own edge
    return psnr(float(np.mean(2 * after**2 * errors[distance])))  # the tile before is its mirror image


def _find_detail(samples: Pixels, size: tuple[int, int], seam: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Top and left of the place of that size with the greatest deviation around its seam."""
    best, place = -1.0, (0, 0)
    for top in _spread(samples.shape[0] - size[0], multiple):
        for left in _spread(samples.shape[1] - size[1], multiple):
            middle = left + seam[1]
            around = samples[top + seam[0] : top + size[0] - seam[0], max(middle - 48, 0) : middle + 16]
            detail = float(around.std())
            if detail > best:
                best, place = detail, (top, left)
    return place


def _spread(maximum: int, multiple: int) -> list[int]:
    return sorted({int(value) // multiple * multiple for value in np.linspace(0, maximum, _COLUMNS)})
