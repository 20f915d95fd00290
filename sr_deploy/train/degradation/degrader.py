"""Pairs of low and high resolution out of originals (Wang et al. 2021, sections 3 and 4.1).

Legend: N samples, C channels, H, W height and width; hr is on the canvas before the crop, of the patch after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.errors import ShapeError
from sr_deploy.train.degradation.draws import NONE, BatchDraw, KernelDraw, StageDraw, draw_batch, take_samples
from sr_deploy.train.degradation.filters import filter_samples
from sr_deploy.train.degradation.jpeg import compress_jpeg
from sr_deploy.train.degradation.kernels import make_kernels
from sr_deploy.train.degradation.noise import add_gaussian_noise, add_poisson_noise
from sr_deploy.train.degradation.sharpen import sharpen
from sr_deploy.train.degradation.threads import map_in_threads
from sr_deploy.train.recipe.degradation import DegradationRecipe, ResizeMode
from sr_deploy.train.sampling import random_for

_NOISE_STREAM = 12
_CACHED_PIXELS = 1_000_000  # of all channels: two canvases of 400 x 400


@dataclass(frozen=True)
class TrainingPair:
    """Patches of a batch, all float32 on levels of 255 in [0, 1]."""

    lr_NCHW: Tensor
    """Low resolution."""
    hr_NCHW: Tensor
    """Originals, for the adversarial term."""
    target_NCHW: Tensor
    """Originals, sharpened where the recipe says so, for the pixel and the perceptual term; else the tensor `hr`."""


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

    def degrade(self, hr_NCHW: Tensor, step: int, first_sample: int = 0) -> TrainingPair:
        """Degrade a batch and cut a patch out of each pair.

        A sample's parameters depend on (seed, step, sample), what is drawn once for a batch on (seed, step), and the
        noise on (seed, step) and the first sample of the slice that is worked on at once (`find_slices`).

        Args:
            hr_NCHW: N x 3 x canvas x canvas, float32 in [0, 1], on the device.
            step: of the training, from 0.
            first_sample: number of the first sample within the step, over all processes.

        Raises:
            ShapeError: the canvas is smaller than the patch, or no multiple of the scale.
        """
        return self.apply(hr_NCHW, self.draw(step, first_sample, len(hr_NCHW)), step, first_sample)

    def draw(self, step: int, first_sample: int, count: int) -> BatchDraw:
        """The parameters that `degrade` uses."""
        return draw_batch(self._recipe, self._seed, step, first_sample, count)

    def apply(self, hr_NCHW: Tensor, draw: BatchDraw, step: int, first_sample: int = 0) -> TrainingPair:
        """Degrade with given parameters; the rest as `degrade`."""
        self._check(hr_NCHW)

        def degrade_slice(part: slice) -> TrainingPair:
            random = random_for(self._seed, _NOISE_STREAM, step, first_sample + part.start)
            generator = torch.Generator(self._device).manual_seed(int(random.integers(2**63)))
            return self._degrade_slice(hr_NCHW[part], take_samples(draw, part), generator)

        pairs = map_in_threads(degrade_slice, find_slices(hr_NCHW))
        if len(pairs) == 1:
            return pairs[0]
        hr_patch = torch.cat([pair.hr_NCHW for pair in pairs])
        target = torch.cat([pair.target_NCHW for pair in pairs]) if self._recipe.sharpen.enabled else hr_patch
        return TrainingPair(torch.cat([pair.lr_NCHW for pair in pairs]), hr_patch, target)

    @torch.no_grad()
    def _degrade_slice(self, hr_NCHW: Tensor, draw: BatchDraw, generator: torch.Generator) -> TrainingPair:
        with torch.autocast(hr_NCHW.device.type, enabled=False):
            target_NCHW = sharpen(hr_NCHW, self._recipe.sharpen) if self._recipe.sharpen.enabled else hr_NCHW
            return self._cut(self._synthesise(target_NCHW, draw, generator), hr_NCHW, target_NCHW, draw.crop)

    def _synthesise(self, hr_NCHW: Tensor, draw: BatchDraw, generator: torch.Generator) -> Tensor:
        """Low resolution of the whole canvas, on levels of 255."""
        height, width = hr_NCHW.shape[2:]
        image = hr_NCHW
        for number, stage in enumerate(draw.stages):
            # The first order goes by the size of the original, the second one by that of the low resolution.
            base = (height, width) if number == 0 else (height / self._scale, width / self._scale)
            image = _blur(image, stage.kernel, self._side(number))
            image = _resize(image, (int(base[0] * stage.factor), int(base[1] * stage.factor)), stage.mode)
            image = _add_noise(image, stage, generator)
            if number < len(draw.stages) - 1:
                image = compress_jpeg(image, torch.from_numpy(stage.quality))
        size = (height // self._scale, width // self._scale)
        quality_N = torch.from_numpy(draw.stages[-1].quality)
        if not draw.jpeg_last:
            image = compress_jpeg(image, quality_N)
        image = _resize(image, size, draw.final_mode)
        image = _blur(image, draw.final, max(self._recipe.final.sizes)).clamp(0.0, 1.0)
        if draw.jpeg_last:
            return compress_jpeg(image, quality_N)  # on levels of 255 already
        return _round(image)

    def _side(self, stage: int) -> int:
        return max((self._recipe.first, self._recipe.second)[stage].blur.sizes)

    def _cut(self, lr_NCHW: Tensor, hr_NCHW: Tensor, target_NCHW: Tensor, crop: NDArray[np.float64]) -> TrainingPair:
        side = self._patch_size // self._scale
        room = np.asarray([lr_NCHW.shape[2] - side + 1, lr_NCHW.shape[3] - side + 1])
        corners = (crop * room).astype(np.int64)
        hr_patch = cut_patches(hr_NCHW, corners * self._scale, self._patch_size)
        target = hr_patch
        if target_NCHW is not hr_NCHW:
            target = _round(cut_patches(target_NCHW, corners * self._scale, self._patch_size))
        return TrainingPair(cut_patches(lr_NCHW, corners, side), hr_patch, target)

    def _check(self, hr_NCHW: Tensor) -> None:
        height, width = hr_NCHW.shape[2:]
        if min(height, width) < self._patch_size or height % self._scale or width % self._scale:
            raise ShapeError(
                f"cannot degrade {height}x{width}: both sides must be multiples of the scale {self._scale} and at "
                f"least the patch's {self._patch_size}; change degradation.canvas or data.patch_size"
            )


def cut_patches(images_NCHW: Tensor, corners_N2: NDArray[np.int64], side: int) -> Tensor:
    """A square out of each sample; `corners_N2` holds top and left."""
    device = images_NCHW.device
    count, channels = images_NCHW.shape[:2]
    places = torch.from_numpy(corners_N2).to(device)[:, :, None] + torch.arange(side, device=device)
    samples = torch.arange(count, device=device).view(count, 1, 1)
    rows = images_NCHW.transpose(1, 2)[samples[:, 0], places[:, 0]]  # N x side x C x W: whole rows
    columns = places[:, 1].view(count, 1, 1, side).expand(count, side, channels, side)
    return rows.gather(3, columns).transpose(1, 2).contiguous()


def find_slices(images_NCHW: Tensor) -> list[slice]:
    """How a batch is worked on: at once on a GPU; on a CPU in parts that stay in a core's cache, side by side."""
    count, *shape = images_NCHW.shape
    length = max(1, _CACHED_PIXELS // math.prod(shape)) if images_NCHW.device.type == "cpu" else count
    return [slice(first, first + length) for first in range(0, count, length)]


def _blur(images_NCHW: Tensor, draw: KernelDraw, side: int) -> Tensor:
    """Filter the samples that have a kernel."""
    chosen = np.flatnonzero(draw.kind != NONE)
    if len(chosen) == 0:
        return images_NCHW
    kernels = make_kernels(draw, side, images_NCHW.device)
    if len(chosen) == len(images_NCHW):
        return filter_samples(images_NCHW, kernels)
    places = torch.from_numpy(chosen).to(images_NCHW.device)
    return images_NCHW.index_copy(0, places, filter_samples(images_NCHW[places], kernels[places]))


def _add_noise(images_NCHW: Tensor, stage: StageDraw, generator: torch.Generator) -> Tensor:
    if stage.gaussian:
        return add_gaussian_noise(images_NCHW, stage.sigma, stage.gray, generator)
    return add_poisson_noise(images_NCHW, stage.poisson_scale, stage.gray, generator)


def _resize(images_NCHW: Tensor, size: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Resample without antialiasing. Bicubic overshoots; whoever is next clips."""
    if tuple(images_NCHW.shape[2:]) == size:
        return images_NCHW
    size = (max(size[0], 1), max(size[1], 1))
    if mode == "area":
        return F.interpolate(images_NCHW, size, mode="area")
    return F.interpolate(images_NCHW, size, mode=mode, align_corners=False)


def _round(images_NCHW: Tensor) -> Tensor:
    return (images_NCHW * 255).round_().clamp_(0.0, 255.0).mul_(1 / 255)
