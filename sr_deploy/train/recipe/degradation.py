"""How low resolution is made: Real-ESRGAN's high-order degradation (Wang et al. 2021, section 3), by its numbers.

What differs between the two orders has no default: a recipe says it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sr_deploy.train.section import Section

Probability = Annotated[float, Field(ge=0, le=1)]
Width = Annotated[float, Field(ge=0, le=1000)]
Angle = Annotated[float, Field(ge=-1000, le=1000)]
Range = tuple[Width, Width]
"""Lowest and highest value of a uniform draw."""
AngleRange = tuple[Angle, Angle]
"""The same, of angles in radians."""


def _check_sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(f"sizes of kernels are odd, not {list(sizes)}")
    return sizes


Sizes = Annotated[
    tuple[Annotated[int, Field(ge=3, le=255)], ...], Field(min_length=1, max_length=100), AfterValidator(_check_sizes)
]
"""Sides of kernels, odd, equally likely; smaller ones are padded with zeros to the greatest."""

ResizeMode = Literal["area", "bilinear", "bicubic"]

_MIN_FACTOR, _MAX_FACTOR = 0.01, 16
KERNEL_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)


class _Ranges(Section):
    """Checks that the two numbers of each range ascend."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name, value in self:
            match value:
                case (float() as low, float() as high) if low > high:
                    raise ValueError(f"{name} = [{low}, {high}] does not ascend")
        return self


class KernelRecipe(_Ranges):
    """The blur of one stage. The six kinds of kernel are drawn by their shares when no sinc is."""

    probability: Probability
    """Share of samples that are blurred at all; the others get the identity."""
    sizes: Sizes = KERNEL_SIZES
    """Side lengths of kernels in pixels, odd."""
    sinc: Probability = 0.1
    """Share of kernels that are sinc filters (ringing)."""
    isotropic: Probability = 0.45
    """Share of round Gaussians."""
    anisotropic: Probability = 0.25
    """Share of elongated, turned Gaussians."""
    generalized_isotropic: Probability = 0.12
    """Share of round generalized Gaussians."""
    generalized_anisotropic: Probability = 0.03
    """Share of elongated generalized Gaussians."""
    plateau_isotropic: Probability = 0.12
    """Share of round plateaus."""
    plateau_anisotropic: Probability = 0.03
    """Share of elongated plateaus."""
    sigma: Range
    """Widths in pixels; both axes of elongated kernels."""
    rotation: AngleRange = (-math.pi, math.pi)
    """Range of angles in radians."""
    generalized_beta: Range = (0.5, 4.0)
    """Exponents of generalized Gaussians; half of the draws lie below 1, half above."""
    plateau_beta: Range = (1.0, 2.0)
    """Exponents of plateaus, likewise."""
    sinc_cutoff: Range = (math.pi / 5, math.pi)
    """Cutoffs of sinc filters, in radians per pixel."""
    sinc_cutoff_small: Range = (math.pi / 3, math.pi)
    """The same, for kernels smaller than `sinc_small_below`."""
    sinc_small_below: int = Field(default=13, ge=3, le=1000)
    """Side of kernels, in pixels."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        shares = self.shares()
        if not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares of the six kinds of kernel add up to {sum(shares):g}; they must to 1")
        if min(self.sinc_cutoff[0], self.sinc_cutoff_small[0]) <= 0:
            raise ValueError("sinc_cutoff and sinc_cutoff_small must be above 0")
        if self.sigma[0] <= 0 or self.generalized_beta[0] <= 0 or self.plateau_beta[0] <= 0:
            raise ValueError("sigma, generalized_beta and plateau_beta must be above 0")
        return self

    def shares(self) -> tuple[float, ...]:
        """Of isotropic, anisotropic, generalized isotropic and anisotropic, plateau isotropic and anisotropic."""
        return (
            self.isotropic, self.anisotropic, self.generalized_isotropic, self.generalized_anisotropic,
            self.plateau_isotropic, self.plateau_anisotropic,
        )  # fmt: skip


class ResizeRecipe(_Ranges):
    """The resampling of one stage; drawn once for a batch. Without antialiasing, as published."""

    up: Probability
    """Share of batches that are enlarged."""
    down: Probability
    """Share of batches that are shrunk; the rest keep their size."""
    factors: Range
    """Smallest and greatest factor; enlarging draws from [1, greatest], shrinking from [smallest, 1]."""
    modes: tuple[ResizeMode, ...] = Field(default=("area", "bilinear", "bicubic"), max_length=100)
    """Ways to resample, equally likely."""

    @model_validator(mode="after")
    def _check_factors(self) -> Self:
        if self.up + self.down > 1 + 1e-9:
            raise ValueError(f"up + down = {self.up + self.down:g} is above 1")
        if not _MIN_FACTOR <= self.factors[0] <= 1 <= self.factors[1] <= _MAX_FACTOR:
            raise ValueError(
                f"factors = {list(self.factors)}: the first lies in [{_MIN_FACTOR}, 1], the second in [1, "
                f"{_MAX_FACTOR}]"
            )
        if not self.modes:
            raise ValueError("modes: name at least one")
        return self


class NoiseRecipe(_Ranges):
    """The noise of one stage; its kind is drawn once for a batch, its strength for each sample."""

    probability: Probability = 1.0
    """Share of samples that get noise at all."""
    gaussian: Probability = 0.5
    """Share of batches with Gaussian noise; the others get Poisson noise."""
    sigma: Range
    """Standard deviation of Gaussian noise, in levels of 255."""
    poisson_scale: Range
    """Factor of Poisson noise."""
    gray: Probability = 0.4
    """Share of samples whose noise is alike in all channels."""


class StageRecipe(_Ranges):
    """One order: blur, resize, noise, JPEG."""

    blur: KernelRecipe
    resize: ResizeRecipe
    noise: NoiseRecipe
    jpeg_probability: Probability = 1.0
    """Share of samples that are compressed at all."""
    jpeg_quality: Range = (30.0, 95.0)
    """Of JPEG compression (4:2:0), drawn for each sample."""

    @model_validator(mode="after")
    def _check_quality(self) -> Self:
        if self.jpeg_quality[0] < 1 or self.jpeg_quality[1] > 100:
            raise ValueError(f"jpeg_quality = {list(self.jpeg_quality)} leaves [1, 100]")
        return self


class FinalRecipe(_Ranges):
    """What ends the degradation: the target size, a last sinc filter, and its order with the last JPEG."""

    sinc: Probability = 0.8
    """Share of samples with a last sinc filter."""
    sizes: Sizes = KERNEL_SIZES
    """Sides of its kernels."""
    sinc_cutoff: Range = (math.pi / 3, math.pi)
    """Cutoffs of sinc filters, in radians per pixel."""
    modes: tuple[ResizeMode, ...] = Field(default=("area", "bilinear", "bicubic"), min_length=1, max_length=100)
    """Ways to resample to the target size, equally likely."""
    jpeg_last: Probability = 0.5
    """Share of batches in which the JPEG comes after the resize and the sinc filter, not before."""

    @model_validator(mode="after")
    def _check_cutoff(self) -> Self:
        if self.sinc_cutoff[0] <= 0:
            raise ValueError("sinc_cutoff must be above 0")
        return self


class SharpenRecipe(Section):
    """Unsharp masking of the originals (Real-ESRGAN+). The adversarial term always sees the plain ones."""

    enabled: bool = False
    """Whether to: low resolution is then made from sharpened originals, and pixel and perceptual loss compare with
    them."""
    weight: float = Field(default=0.5, ge=0, le=100)
    """Strength of the sharpening; 0: none."""
    radius: int = Field(default=50, ge=1, le=500)
    """Of the Gaussian, in pixels; even ones count one more (a kernel of 51)."""
    threshold: float = Field(default=10.0, ge=0, le=255)
    """Differences up to this many levels of 255 are left."""


class DegradationRecipe(Section):
    """Low resolution as photographs from the wild have it; left out: the papers' bicubic."""

    orders: Literal[1, 2] = 2
    """How many times an image is blurred, resized, made noisy and compressed (1: an ablation of the paper)."""
    sinc: bool = True
    """Whether there are sinc filters at all (false: an ablation of the paper)."""
    canvas: int = Field(default=400, ge=16, le=8192)
    """Side of what is cut from a photograph and degraded, in pixels; smaller photographs are reflected. The patch is
    cut from the result."""
    pool: int = Field(default=180, ge=0, le=10**6)
    """Pairs kept and exchanged at random, so that a batch mixes what is drawn once for a batch; 0: none."""
    first: StageRecipe
    second: StageRecipe
    """Second order; its resampling goes by the size of the low resolution."""
    final: FinalRecipe = FinalRecipe()
    """Final blur, JPEG compression and downscaling."""
    sharpen: SharpenRecipe = SharpenRecipe()
    """Unsharp masking of the originals."""

    def min_side(self) -> int:
        """Pixels that a photograph must have along each side: enough that reflecting it makes sense."""
        return min(self.canvas, 32)
