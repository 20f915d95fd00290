"""The high-order degradation as it is widely done, written here in our words, for `degradation.py` to compare with.

Each sample's kernels are evaluated by NumPy and SciPy on the CPU, a grouped convolution goes with them (identities too,
which the widely used trainer convolves with as well), Poisson noise comes from torch's sampler after a search for each
sample's distinct levels, and JPEG on tensors goes picture by picture, each block of 8x8 against all 64 basis pictures.
Some trainers send each picture through libjpeg (Pillow) instead.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import special
from torch import Tensor

from sr_deploy.train.degradation.draws import KINDS, NONE, SINC, BatchDraw, KernelDraw, StageDraw
from sr_deploy.train.degradation.jpeg import scale_tables
from sr_deploy.train.recipe import DegradationRecipe


class KnownWay:
    """The degradation as it is widely done: sample by sample on the CPU where a sample has its own parameters."""

    def __init__(self, recipe: DegradationRecipe, patch_size: int, scale: int) -> None:
        self._recipe = recipe
        self._scale = scale
        self._patch_size = patch_size
        side = recipe.sharpen.radius + (recipe.sharpen.radius + 1) % 2
        width = 0.3 * ((side - 1) / 2 - 1) + 0.8
        line = np.exp(-0.5 * (np.arange(-(side // 2), side // 2 + 1) / width) ** 2)
        self._wide = torch.from_numpy(np.outer(line, line) / line.sum() ** 2).float()
        self._dct = BlockTransform()

    @torch.no_grad()
    def degrade(self, hr: Tensor, draw: BatchDraw) -> tuple[Tensor, Tensor]:
        """Patches of low and high resolution."""
        target, scale = self._sharpen(hr) if self._recipe.sharpen.enabled else hr, self._scale
        image, size = target, (hr.shape[2] // scale, hr.shape[3] // scale)
        for number, stage in enumerate(draw.stages):
            image = blur_known(image, stage.kernel, max(self._recipe.first.blur.sizes))
            base = hr.shape[2] if number == 0 else hr.shape[2] / scale
            image = F.interpolate(image, (int(base * stage.factor),) * 2, mode=stage.mode)
            image = add_noise_known(image, stage)
            if number == 0:
                image = compress_known(image, stage.quality, self._dct)
        quality = draw.stages[-1].quality
        if not draw.jpeg_last:
            image = compress_known(image, quality, self._dct)
        image = F.interpolate(image, size, mode=draw.final_mode)
        image = blur_known(image, draw.final, max(self._recipe.final.sizes)).clamp(0, 1)
        if draw.jpeg_last:
            image = compress_known(image, quality, self._dct)
        image = (image * 255).round().clamp(0, 255) / 255
        side = self._patch_size // scale  # one place for the whole batch
        top, left = (int(share * (size[0] - side + 1)) for share in draw.crop[0])
        edge = slice(top * scale, top * scale + self._patch_size), slice(left * scale, left * scale + self._patch_size)
        return image[:, :, top : top + side, left : left + side].contiguous(), target[:, :, *edge].contiguous()

    def _sharpen(self, hr: Tensor) -> Tensor:
        def blur(images: Tensor) -> Tensor:
            reach = self._wide.shape[0] // 2
            padded = F.pad(images, (reach,) * 4, mode="reflect").flatten(0, 1)[:, None]
            return F.conv2d(padded, self._wide[None, None]).reshape(images.shape)

        residual = hr - blur(hr)
        mask = blur((residual.abs() * 255 > self._recipe.sharpen.threshold).float())
        return mask * (hr + self._recipe.sharpen.weight * residual).clamp(0, 1) + (1 - mask) * hr


def make_kernel_known(draw: KernelDraw, sample: int, side: int) -> NDArray[np.float64]:
    """One kernel, on a grid of its own size, padded with zeros to `side`."""
    size, kind = int(draw.size[sample]), int(draw.kind[sample])
    if kind == NONE:
        kernel = np.zeros((side, side))
        kernel[side // 2, side // 2] = 1
        return kernel
    axis = np.arange(-(size // 2), size // 2 + 1, dtype=np.float64)
    x, y = np.meshgrid(axis, axis)
    if kind == SINC:
        cutoff = float(draw.cutoff[sample])
        radius = np.hypot(x, y)
        with np.errstate(invalid="ignore", divide="ignore"):
            kernel = cutoff * special.j1(cutoff * radius) / (2 * np.pi * radius)
        kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    else:
        angle = float(draw.rotation[sample])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        inverse = np.linalg.inv(turn @ np.diag(draw.sigma[sample] ** 2) @ turn.T)
        grid = np.stack([x, y], axis=-1)
        power = np.sum((grid @ inverse) * grid, axis=-1) ** float(draw.beta[sample])
        kernel = 1 / (1 + power) if KINDS[kind].startswith("plateau") else np.exp(-0.5 * power)
    kernel /= kernel.sum()
    return np.pad(kernel, (side - size) // 2)


def blur_known(images: Tensor, draw: KernelDraw, side: int) -> Tensor:
    """A grouped convolution, unless no sample has a kernel."""
    if bool(np.all(draw.kind == NONE)):
        return images
    kernels = np.stack([make_kernel_known(draw, sample, side) for sample in range(len(images))])
    weights = torch.from_numpy(kernels).float()[:, None].repeat_interleave(3, dim=0)
    padded = F.pad(images, (side // 2,) * 4, mode="reflect")
    return F.conv2d(padded.reshape(1, -1, *padded.shape[2:]), weights, groups=len(weights)).reshape(images.shape)


def add_noise_known(images: Tensor, stage: StageDraw) -> Tensor:
    """Noise in color for all samples, and gray noise in its place where a sample asks for it."""
    gray = torch.from_numpy(stage.gray.astype(np.float32)).view(-1, 1, 1, 1)
    if stage.gaussian:
        sigma = torch.from_numpy(stage.sigma.astype(np.float32) / 255).view(-1, 1, 1, 1)
        noise = torch.randn_like(images) * sigma
        if stage.gray.any():
            noise = noise * (1 - gray) + torch.randn(images.shape[2:]) * sigma * gray
        return (images + noise).clamp(0, 1)
    noise = _poisson_known(images)
    if stage.gray.any():
        weights = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
        noise = noise * (1 - gray) + _poisson_known((images * weights).sum(1, keepdim=True)) * gray
    scale = torch.from_numpy(stage.poisson_scale.astype(np.float32)).view(-1, 1, 1, 1)
    return (images + noise * scale).clamp(0, 1)


def _poisson_known(images: Tensor) -> Tensor:
    images = (images * 255).round().clamp(0, 255) / 255
    levels = [2 ** np.ceil(np.log2(len(torch.unique(image)))) for image in images]
    scale = torch.tensor(levels, dtype=torch.float32).view(-1, 1, 1, 1)
    return torch.poisson(images * scale) / scale - images


def compress_known(images: Tensor, quality: NDArray[np.int64], dct: BlockTransform) -> Tensor:
    """JPEG on tensors, picture by picture."""
    return torch.stack([dct.compress(image, int(percent)) for image, percent in zip(images, quality, strict=True)])


def compress_with_libjpeg(images: Tensor, quality: NDArray[np.int64]) -> Tensor:
    """Each picture through libjpeg."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = []
    for picture, percent in zip(pixels, quality, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=int(percent), subsampling=2)
        decoded.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255


class BlockTransform:
    """JPEG's way there and back for one picture, 4:2:0, blocks of 8x8 against all basis pictures at once."""

    def __init__(self) -> None:
        wave = np.arange(8)
        basis = np.cos((2 * wave[:, None] + 1) * wave[None] * np.pi / 16)  # place, frequency
        norm = np.where(wave == 0, np.sqrt(0.5), 1.0) / 2
        pictures = np.einsum("xu,yv,u,v->xyuv", basis, basis, norm, norm)
        self._there = torch.from_numpy(pictures).float()
        self._back = self._there.permute(2, 3, 0, 1).contiguous()

    def compress(self, image: Tensor, quality: int) -> Tensor:
        """C x H x W in [0, 1], as JPEG of that quality leaves it."""
        luma_steps, chroma_steps = (table.view(8, 8) for table in scale_tables(torch.tensor([quality])))
        height, width = image.shape[1:]
        padded = F.pad(image[None], (0, -width % 16, 0, -height % 16), mode="replicate")[0] * 255
        red, green, blue = padded
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        chroma = [F.avg_pool2d((one - luma)[None] * share, 2)[0] for one, share in ((blue, 0.5643), (red, 0.7133))]
        luma = self._round_trip(luma - 128, luma_steps) + 128
        wide = [self._round_trip(plane, chroma_steps) for plane in chroma]
        cb, cr = (plane.repeat_interleave(2, 0).repeat_interleave(2, 1) for plane in wide)
        restored = torch.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb])
        return restored.round().clamp(0, 255)[:, :height, :width] / 255

    def _round_trip(self, plane: Tensor, steps: Tensor) -> Tensor:
        rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
        blocks = plane.reshape(rows, 8, columns, 8).transpose(1, 2).reshape(-1, 8, 8)
        levels = (torch.tensordot(blocks, self._there, dims=2) / steps).round() * steps
        whole = torch.tensordot(levels, self._back, dims=2)
        return whole.reshape(rows, columns, 8, 8).transpose(1, 2).reshape(plane.shape)
