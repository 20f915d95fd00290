"""Pairs of low and high resolution out of originals (Wang et al. 2021, sections 3 and 4.1).

Legend: N samples, C channels, H, W height and width; hr is on the canvas before the crop, of the patch after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.errors import ShapeError
from sr_deploy.train.degradation.draws import BatchDraw, StageDraw, draw_batch, take_samples
from sr_deploy.train.degradation.filters import filter_samples
from sr_deploy.train.degradation.groups import map_groups
from sr_deploy.train.degradation.jpeg import compress_jpeg
from sr_deploy.train.degradation.kernels import find_sizes, make_kernels
from sr_deploy.train.degradation.noise import add_gaussian_noise, add_poisson_noise
from sr_deploy.train.degradation.resize import resize
from sr_deploy.train.degradation.sharpen import sharpen
from sr_deploy.train.degradation.threads import map_in_threads
from sr_deploy.train.recipe.degradation import DegradationRecipe
from sr_deploy.train.sampling import random_for

_NOISE_STREAM = 12
_SLICE = 6  # samples; threads wait more for the interpreter with smaller slices
_CACHED_NUMBERS = 1_500_000  # three canvases of 400 x 400: much of what is made of them stays in a CPU's caches


@dataclass(frozen=True)
class TrainingPair:
    """Patches of a batch, all float32 in [0, 1], on levels of 255; of originals of 16 bit on levels of 65535."""

    lr_NCHW: Tensor
    """The network's input: H and W are those of the patches divided by the scale."""
    hr_NCHW: Tensor
    """Originals, for the adversarial term."""
    target_NCHW: Tensor
    """Originals, sharpened where the recipe says so, for the pixel and the perceptual term; else the tensor `hr`."""


@dataclass(frozen=True)
class _Plan:
    """What is done to a batch."""

    draw: BatchDraw
    kernels: tuple[Tensor, ...]
    """Of each order, and of the last filter: N x K x K."""
    kernel_sizes: tuple[NDArray[np.int64], ...]
    """Sides of what counts of them (`find_sizes`)."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width after the resize of each order, and of the low resolution; all of whole canvases."""
    corners: NDArray[np.int64]
    """N x 2: top and left of the patch, at low resolution."""

    def take(self, part: slice) -> _Plan:
        """That of some samples."""
        return replace(take_samples(self, part), kernels=tuple(kernels[part] for kernels in self.kernels))


class Degrader:
    """Makes the pairs of any step: the same ones for the same (seed, step, first sample, size of the batch)."""

    def __init__(
        self, recipe: DegradationRecipe, *, scale: int, patch_size: int, seed: int, device: torch.device
    ) -> None:
        """`patch_size`: side of the high-resolution patch, a multiple of `scale`; `seed`: of the recipe."""
        self._recipe = recipe
        self._scale = scale
        self._patch_size = patch_size
        self._seed = seed
        self._device = device

    def degrade(self, hr_NCHW: Tensor, step: int, first_sample: int = 0, *, deep: bool = False) -> TrainingPair:
        """Degrade a batch and cut a patch out of each pair.

        A sample's parameters depend on (seed, step, sample), what is drawn once for a batch on (seed, step), and the
        noise on (seed, step) and the first sample of the slice that is worked on at once (`find_slices`).

        Args:
            hr_NCHW: N x 3 x canvas x canvas, float32 in [0, 1], on the device.
            step: of the training, from 0.
            first_sample: number of the first sample within the step, over all processes.
            deep: the originals have 16 bits: sharpened ones are not rounded to levels of 255.

        Raises:
            ShapeError: the canvas is smaller than the patch, or no multiple of the scale.
        """
        return self.apply(hr_NCHW, self.draw(step, first_sample, len(hr_NCHW)), step, first_sample, deep=deep)

    def draw(self, step: int, first_sample: int, count: int) -> BatchDraw:
        """The parameters that `degrade` uses."""
        return draw_batch(self._recipe, self._seed, step, first_sample, count)

    def apply(
        self, hr_NCHW: Tensor, draw: BatchDraw, step: int, first_sample: int = 0, *, deep: bool = False
    ) -> TrainingPair:
        """Degrade with given parameters; the rest as `degrade`."""
        self._check(hr_NCHW)

        def work(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            random = random_for(self._seed, _NOISE_STREAM, step, first_sample + part.start)
            generator = torch.Generator(self._device).manual_seed(int(random.integers(2**63)))
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                plan = self._make_plan(take_samples(draw, part), hr_NCHW.shape[2:])
                return self._degrade(hr_NCHW[part], plan, generator, deep=deep)

        parts = map_in_threads(work, find_slices(hr_NCHW))
        lr, hr_patch, target = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return TrainingPair(lr, hr_patch, target if self._recipe.sharpen.enabled else hr_patch)

    def _make_plan(self, draw: BatchDraw, canvas: Sequence[int]) -> _Plan:
        low = canvas[0] // self._scale, canvas[1] // self._scale
        # The first order goes by the size of the original, the second one by that of the low resolution.
        sizes = [
            (int(height * stage.factor), int(width * stage.factor))
            for (height, width), stage in zip([canvas, low][: len(draw.stages)], draw.stages, strict=True)
        ]
        room = np.asarray(low) - self._patch_size // self._scale + 1
        blurs = (self._recipe.first.blur, self._recipe.second.blur)[: len(draw.stages)]
        kernel_sizes = [*(max(blur.sizes) for blur in blurs), max(self._recipe.final.sizes)]
        kernels = [*(stage.kernel for stage in draw.stages), draw.final]
        return _Plan(
            draw=draw,
            kernels=tuple(make_kernels(*pair, self._device) for pair in zip(kernels, kernel_sizes, strict=True)),
            kernel_sizes=tuple(find_sizes(kernel) for kernel in kernels),
            sizes=(*sizes, low),
            corners=(draw.crop * room).astype(np.int64),
        )

    def _degrade(
        self, hr_NCHW: Tensor, plan: _Plan, generator: torch.Generator, *, deep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Patches of low resolution, of originals and of targets; no targets where they are the originals."""
        pieces = [
            self._start(hr_NCHW[part], plan.take(part), generator, deep=deep) for part in find_pieces(hr_NCHW, plan)
        ]
        image, target_patch = (torch.cat(tensors) for tensors in zip(*pieces, strict=True))
        lr_patch = cut_patches(self._finish(image, plan, generator), plan.corners, self._patch_size // self._scale)
        return lr_patch, cut_patches(hr_NCHW, plan.corners * self._scale, self._patch_size), target_patch

    def _start(self, hr_NCHW: Tensor, plan: _Plan, generator: torch.Generator, *, deep: bool) -> tuple[Tensor, Tensor]:
        """The images after the last order's resize, and patches of targets."""
        image, target_patch = hr_NCHW, hr_NCHW[:0]
        if self._recipe.sharpen.enabled:
            image = sharpen(hr_NCHW, self._recipe.sharpen)
            target_patch = cut_patches(image, plan.corners * self._scale, self._patch_size)
            target_patch = target_patch if deep else _round(target_patch)
        for number, stage in enumerate(plan.draw.stages):
            if number > 0:
                before = plan.draw.stages[number - 1]
                image = _compress(_add_noise(image, before, generator), before.quality)
            image = filter_samples(image, plan.kernels[number], plan.kernel_sizes[number])
            image = resize(image, plan.sizes[number], stage.mode)
        return image, target_patch

    def _finish(self, images_NCHW: Tensor, plan: _Plan, generator: torch.Generator) -> Tensor:
        """What follows the last order's resize; on levels of 255."""
        stage = plan.draw.stages[-1]
        image = _add_noise(images_NCHW, stage, generator)
        if not plan.draw.jpeg_last:
            image = _compress(image, stage.quality)
        image = resize(image, plan.sizes[-1], plan.draw.final_mode)
        image = filter_samples(image, plan.kernels[-1], plan.kernel_sizes[-1]).clamp(0.0, 1.0)
        return _round(_compress(image, stage.quality) if plan.draw.jpeg_last else image)

    def _check(self, hr_NCHW: Tensor) -> None:
        height, width = hr_NCHW.shape[2:]
        if min(height, width) < self._patch_size or height % self._scale or width % self._scale:
            raise ShapeError(
                f"cannot degrade {height}x{width}: both sides must be multiples of the scale {self._scale} and at "
                f"least the patch's {self._patch_size}; change degradation.canvas or data.patch_size"
            )


def cut_patches(images_NCHW: Tensor, corners_N2: NDArray[np.int64], side: int) -> Tensor:
    """A square out of each sample; `corners_N2` holds top and left."""
    top, left = torch.from_numpy(corners_N2.T).to(images_NCHW.device)
    windows = images_NCHW.unfold(2, side, 1).unfold(3, side, 1)  # a view: every square that there is
    return windows[torch.arange(len(images_NCHW), device=images_NCHW.device), :, top, left]


def find_slices(images_NCHW: Tensor) -> list[slice]:
    """What of a batch is worked on side by side by the cores of a CPU; all of it on a GPU."""
    return _cut(images_NCHW, _SLICE)


def find_pieces(images_NCHW: Tensor, plan: _Plan) -> list[slice]:
    """What of a slice is worked on at once as long as its images are large; all of it on a GPU."""
    _, channels, *canvas = images_NCHW.shape
    largest = channels * max(math.prod(size) for size in (canvas, *plan.sizes))
    return _cut(images_NCHW, max(_CACHED_NUMBERS // largest, 1))


def _cut(images_NCHW: Tensor, length: int) -> list[slice]:
    """Runs of `length` samples, the last one of what is left; a GPU takes all samples at once."""
    count = len(images_NCHW)
    step = length if images_NCHW.device.type == "cpu" else count
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def _add_noise(images_NCHW: Tensor, stage: StageDraw, generator: torch.Generator) -> Tensor:
    if not (stage.sigma if stage.gaussian else stage.poisson_scale).any():
        return images_NCHW.clamp(0.0, 1.0)
    if stage.gaussian:
        return add_gaussian_noise(images_NCHW, stage.sigma, stage.gray, generator)
    return add_poisson_noise(images_NCHW, stage.poisson_scale, stage.gray, generator)


def _compress(images_NCHW: Tensor, quality_N: NDArray[np.int64]) -> Tensor:
    """JPEG compression of those samples whose quality is not 0."""

    def work(images: Tensor, run: slice) -> Tensor:
        return compress_jpeg(images, torch.from_numpy(quality_N[run])) if quality_N[run.start] else images

    return map_groups(work, images_NCHW, quality_N > 0)


def _round(images_NCHW: Tensor) -> Tensor:
    return (images_NCHW * 255).round_().clamp_(0.0, 255.0).mul_(1 / 255)
