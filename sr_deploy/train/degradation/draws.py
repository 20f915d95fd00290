"""What is drawn for a batch: all random parameters of the degradation, apart from the noise itself. NumPy only.

A sample takes its uniform numbers in one go, one for each thing that may ever be drawn. So switching something off
leaves all other draws as they were, and a sample's parameters depend on (seed, step, sample) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.train.recipe.degradation import (
    DegradationRecipe,
    FinalRecipe,
    KernelRecipe,
    Range,
    ResizeMode,
    ResizeRecipe,
    StageRecipe,
)
from sr_deploy.train.sampling import random_for

Floats = NDArray[np.float64]
Draw = TypeVar("Draw")

# Streams of `random_for`; 0 is the one of patches.
_SAMPLE_STREAM = 10
_BATCH_STREAM = 11

KINDS = (
    "none", "sinc", "isotropic", "anisotropic", "generalized isotropic", "generalized anisotropic",
    "plateau isotropic", "plateau anisotropic",
)  # fmt: skip
NONE, SINC = 0, 1
# Uniform numbers that each part takes, in this order: first blur, its noise and JPEG, the same again, final, crop, and
# whether there are noise and JPEG, of each order: what came later comes last, and leaves the draws of older runs.
_KERNEL_NUMBERS = 10
_NOISE_NUMBERS = 4
_STAGE_NUMBERS = _KERNEL_NUMBERS + _NOISE_NUMBERS
_FINAL_NUMBERS = 3
_CROP_NUMBERS = 2
_SWITCH_NUMBERS = 2
_FIRST_SWITCH = 2 * _STAGE_NUMBERS + _FINAL_NUMBERS + _CROP_NUMBERS
_SAMPLE_NUMBERS = _FIRST_SWITCH + 2 * _SWITCH_NUMBERS
_RESIZE_NUMBERS = 4
_BATCH_NUMBERS = 2 * _RESIZE_NUMBERS + 2


@dataclass(frozen=True)
class KernelDraw:
    """The kernels of a batch, by their parameters; arrays of N."""

    kind: NDArray[np.int64]
    """Index into KINDS; what does not belong to the kind is drawn, but has no effect."""
    size: NDArray[np.int64]
    """Side in pixels, odd."""
    sigma: Floats
    """N x 2: width along the first and the second axis, in pixels; alike for isotropic kinds."""
    rotation: Floats
    """Angle of the first axis, in radians."""
    beta: Floats
    """Exponent; 1 for plain Gaussians."""
    cutoff: Floats
    """Of sinc filters, in radians per pixel."""


@dataclass(frozen=True)
class StageDraw:
    """One order: blur, resize, noise, JPEG."""

    kernel: KernelDraw
    factor: float
    """Output pixels per input pixel of the resampling, for the whole batch."""
    mode: ResizeMode
    """How it resamples, for the whole batch."""
    gaussian: bool
    """Gaussian noise, or else Poisson noise, for the whole batch."""
    sigma: Floats
    """N: standard deviation of Gaussian noise, in levels of 255; 0 without noise."""
    poisson_scale: Floats
    """N: factor of Poisson noise; 0 without noise."""
    gray: NDArray[np.bool_]
    """N: whether the noise is alike in all channels."""
    quality: NDArray[np.int64]
    """N: quality of the JPEG compression, 1 to 100; 0 without it."""


@dataclass(frozen=True)
class BatchDraw:
    """All parameters of a batch."""

    stages: tuple[StageDraw, ...]
    """One or two orders."""
    final: KernelDraw
    """The last sinc filters."""
    final_mode: ResizeMode
    """How the last resize, to the target size, resamples; for the whole batch."""
    jpeg_last: bool
    """Whether the last JPEG comes after the last resize and filter, not before; for the whole batch."""
    crop: Floats
    """N x 2: top and left of the patch, as shares in [0, 1) of the room that there is."""


def draw_batch(recipe: DegradationRecipe, seed: int, step: int, first_sample: int, count: int) -> BatchDraw:
    """The parameters of `count` samples of a step, from `first_sample` on.

    What is drawn once for a batch depends on the seed and the step alone, so that several processes, or the parts of an
    accumulated batch, agree on it.
    """
    # One generator for each sample, some 10 microseconds; all that follows is done for the whole batch.
    samples = np.stack(
        [random_for(seed, _SAMPLE_STREAM, step, first_sample + i).random(_SAMPLE_NUMBERS) for i in range(count)]
    )
    batch = random_for(seed, _BATCH_STREAM, step, 0).random(_BATCH_NUMBERS)
    stages = (recipe.first, recipe.second)[: recipe.orders]
    final = samples[:, 2 * _STAGE_NUMBERS :]
    return BatchDraw(
        stages=tuple(
            _draw_stage(
                stage,
                samples[:, i * _STAGE_NUMBERS : (i + 1) * _STAGE_NUMBERS],
                samples[:, _FIRST_SWITCH + i * _SWITCH_NUMBERS :].T,
                batch[i * _RESIZE_NUMBERS : (i + 1) * _RESIZE_NUMBERS],
                recipe.sinc,
            )
            for i, stage in enumerate(stages)
        ),
        final=_draw_final(recipe.final, final[:, :_FINAL_NUMBERS], recipe.sinc),
        final_mode=_choose(recipe.final.modes, batch[2 * _RESIZE_NUMBERS]),
        jpeg_last=bool(batch[2 * _RESIZE_NUMBERS + 1] < recipe.final.jpeg_last),
        crop=final[:, _FINAL_NUMBERS : _FINAL_NUMBERS + _CROP_NUMBERS],
    )


def take_samples(draw: Draw, samples: slice) -> Draw:
    """The parameters of some samples: arrays are sliced, values of the whole batch are kept."""
    if isinstance(draw, np.ndarray):
        return cast(Draw, draw[samples])
    if isinstance(draw, tuple):
        return cast(Draw, tuple(take_samples(part, samples) for part in draw))
    if is_dataclass(draw) and not isinstance(draw, type):
        cut = {field.name: take_samples(getattr(draw, field.name), samples) for field in fields(draw)}
        return cast(Draw, replace(draw, **cut))
    return draw


def _draw_stage(recipe: StageRecipe, samples: Floats, switches: Floats, batch: Floats, sinc: bool) -> StageDraw:
    noise = samples[:, _KERNEL_NUMBERS:].T
    noisy, compressed = switches[0] < recipe.noise.probability, switches[1] < recipe.jpeg_probability
    factor = _draw_factor(recipe.resize, batch[0], batch[1])
    return StageDraw(
        kernel=_draw_kernel(recipe.blur, samples[:, :_KERNEL_NUMBERS].T, sinc),
        factor=factor,
        mode=_choose(recipe.resize.modes, batch[2]),
        gaussian=bool(batch[3] < recipe.noise.gaussian),
        sigma=np.where(noisy, _spread(recipe.noise.sigma, noise[0]), 0.0),
        poisson_scale=np.where(noisy, _spread(recipe.noise.poisson_scale, noise[1]), 0.0),
        gray=noise[2] < recipe.noise.gray,
        quality=np.where(compressed, np.rint(_spread(recipe.jpeg_quality, noise[3])), 0).astype(np.int64),
    )


def _draw_factor(recipe: ResizeRecipe, direction: float, amount: float) -> float:
    smallest, greatest = recipe.factors
    if direction < recipe.up:
        return 1 + amount * (greatest - 1)
    if direction < recipe.up + recipe.down:
        return smallest + amount * (1 - smallest)
    return 1.0


def _draw_kernel(recipe: KernelRecipe, numbers: Floats, sinc: bool) -> KernelDraw:
    blurred, ringing, kind, size, first, second, rotation, coin, beta, cutoff = numbers
    bounds = np.cumsum(recipe.shares())[:-1]
    kinds = 2 + np.searchsorted(bounds, kind, side="right")
    if sinc:
        kinds = np.where(ringing < recipe.sinc, SINC, kinds)
    kinds = np.where(blurred < recipe.probability, kinds, NONE)
    sizes = np.asarray(recipe.sizes)[(size * len(recipe.sizes)).astype(np.int64)]
    isotropic = np.char.endswith(np.asarray(KINDS)[kinds], " isotropic") | (kinds == KINDS.index("isotropic"))
    widths = _spread(recipe.sigma, np.stack([first, np.where(isotropic, first, second)], axis=1))
    generalized = _split_at_one(recipe.generalized_beta, coin, beta)
    plateau = _split_at_one(recipe.plateau_beta, coin, beta)
    exponent = np.where(kinds >= KINDS.index("plateau isotropic"), plateau, generalized)
    narrow, wide = recipe.sinc_cutoff_small, recipe.sinc_cutoff
    return KernelDraw(
        kind=kinds,
        size=sizes,
        sigma=widths,
        rotation=np.where(isotropic, 0.0, _spread(recipe.rotation, rotation)),
        beta=np.where(kinds <= KINDS.index("anisotropic"), 1.0, exponent),
        cutoff=np.where(sizes < recipe.sinc_small_below, _spread(narrow, cutoff), _spread(wide, cutoff)),
    )


def _draw_final(recipe: FinalRecipe, numbers: Floats, sinc: bool) -> KernelDraw:
    ringing, size, cutoff = numbers.T
    count = len(ringing)
    return KernelDraw(
        kind=np.where((ringing < recipe.sinc) & sinc, SINC, NONE),
        size=np.asarray(recipe.sizes)[(size * len(recipe.sizes)).astype(np.int64)],
        sigma=np.ones((count, 2)),
        rotation=np.zeros(count),
        beta=np.ones(count),
        cutoff=_spread(recipe.sinc_cutoff, cutoff),
    )


def _split_at_one(bounds: Range, coin: Floats, amount: Floats) -> Floats:
    """Half of the draws below 1, half above, each uniform; a range that starts at 1 gives 1 half of the time."""
    low, high = bounds
    return np.where(coin < 0.5, _spread((low, max(low, 1.0)), amount), _spread((min(high, 1.0), high), amount))


def _spread(bounds: Range, numbers: Floats) -> Floats:
    """Numbers of [0, 1) over a range."""
    low, high = bounds
    return low + numbers * (high - low)


def _choose(modes: tuple[ResizeMode, ...], number: float) -> ResizeMode:
    return modes[int(number * len(modes))]
