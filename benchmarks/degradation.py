"""Time the high-order degradation: ours, and the way it is widely done, side by side in one run.

    python benchmarks/degradation.py            # batch 12, canvas 400, patch 256; two minutes on two cores
    python benchmarks/degradation.py --quick    # a few batches of each
    python benchmarks/degradation.py --device cuda    # ours alone, on a GPU

The known way, written here in our words: each sample's kernels evaluated by NumPy and SciPy on the CPU, a grouped
convolution with them (identities too, which the widely used trainer convolves with as well), Poisson noise by torch's
sampler after a search for each sample's distinct levels, and JPEG on tensors, picture by picture, each block of 8x8
against all 64 basis pictures. Some trainers send each picture through libjpeg (Pillow) instead: a row of its own.
Both ways get the same parameters, so both have the same work in every round. Rounds alternate: A B, B A.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import special
from torch import Tensor

from sr_deploy.imaging.codec import bundled_photographs, read_training_image
from sr_deploy.measure.machine import describe_machine, tool_versions, usable_cores
from sr_deploy.train.degradation.degrader import Degrader, find_slices
from sr_deploy.train.degradation.draws import KINDS, NONE, SINC, BatchDraw, KernelDraw, StageDraw
from sr_deploy.train.degradation.filters import filter_samples
from sr_deploy.train.degradation.jpeg import compress_jpeg, scale_tables
from sr_deploy.train.degradation.kernels import make_kernels
from sr_deploy.train.degradation.noise import add_poisson_noise
from sr_deploy.train.degradation.threads import map_in_threads
from sr_deploy.train.recipe import DegradationRecipe, load_recipe

RESULTS = Path(__file__).parent / "results"
SCALE = 4


@dataclass(frozen=True)
class Comparison:
    """Times of both ways, in milliseconds for a batch."""

    name: str
    """What was done."""
    ours_ms: float
    """Mean over rounds: what a training pays."""
    ours_median_ms: float
    """Median."""
    known_ms: float
    """Mean of the known way; 0 where it was not run."""
    known_median_ms: float
    """Median."""
    ratio: float
    """Mean of the known way over ours: how many times as many images a second."""
    ratio_low: float
    """Lower quartile of the rounds' ratios."""
    ratio_high: float
    """Upper quartile."""


class KnownWay:
    """The degradation as it is widely done: sample by sample on the CPU where a sample has its own parameters."""

    def __init__(self, recipe: DegradationRecipe, patch_size: int) -> None:
        self._recipe = recipe
        self._patch_size = patch_size
        side = recipe.sharpen.radius + (recipe.sharpen.radius + 1) % 2
        width = 0.3 * ((side - 1) / 2 - 1) + 0.8
        line = np.exp(-0.5 * (np.arange(-(side // 2), side // 2 + 1) / width) ** 2)
        self._wide = torch.from_numpy(np.outer(line, line) / line.sum() ** 2).float()
        self._dct = BlockTransform()

    @torch.no_grad()
    def degrade(self, hr: Tensor, draw: BatchDraw) -> tuple[Tensor, Tensor]:
        """Patches of low and high resolution."""
        target = self._sharpen(hr) if self._recipe.sharpen.enabled else hr
        image, size = target, (hr.shape[2] // SCALE, hr.shape[3] // SCALE)
        for number, stage in enumerate(draw.stages):
            image = blur_known(image, stage.kernel, max(self._recipe.first.blur.sizes))
            base = hr.shape[2] if number == 0 else hr.shape[2] / SCALE
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
        side = self._patch_size // SCALE  # one place for the whole batch
        top, left = (int(share * (size[0] - side + 1)) for share in draw.crop[0])
        edge = slice(top * SCALE, top * SCALE + self._patch_size), slice(left * SCALE, left * SCALE + self._patch_size)
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
    """Noise in colour for all samples, and gray noise in its place where a sample asks for it."""
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


def load_canvases(count: int, side: int) -> Tensor:
    """Pieces of the bundled photographs, N x 3 x side x side in [0, 1]."""
    random = np.random.default_rng(0)
    photographs = [read_training_image(path) for path in bundled_photographs().values()]
    usable = [picture for picture in photographs if min(picture.shape[:2]) >= side]
    pieces = []
    for number in range(count):
        picture = usable[number % len(usable)]
        top, left = (int(random.integers(length - side + 1)) for length in picture.shape[:2])
        pieces.append(picture[top : top + side, left : left + side])
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).float().div_(255).contiguous()


def time_rounds(
    name: str, ours: Callable[[int], object], known: Callable[[int], object] | None, rounds: int
) -> Comparison:
    """Both ways in turn, on the same steps."""
    taken: dict[str, list[float]] = {"ours": [], "known": []}
    ways = {"ours": ours} | ({"known": known} if known else {})
    for step in range(-2, rounds):  # two rounds warm up
        for way in list(ways) if step % 2 else list(ways)[::-1]:
            started = time.perf_counter()
            ways[way](step + 2)
            if step >= 0:
                taken[way].append((time.perf_counter() - started) * 1e3)
    mine, theirs = taken["ours"], taken["known"] or [0.0] * rounds
    low, _, high = statistics.quantiles([b / a for a, b in zip(mine, theirs, strict=True)], n=4)
    result = Comparison(
        name,
        ours_ms=statistics.mean(mine),
        ours_median_ms=statistics.median(mine),
        known_ms=statistics.mean(theirs),
        known_median_ms=statistics.median(theirs),
        ratio=sum(theirs) / sum(mine),
        ratio_low=low,
        ratio_high=high,
    )
    print(
        f"{name:28} ours {result.ours_ms:8.1f} ms  known {result.known_ms:8.1f} ms  {result.ratio:5.2f}x "
        f"({low:.2f} to {high:.2f})",
        flush=True,
    )
    return result


def measure_whole(options: argparse.Namespace, rounds: int) -> list[Comparison]:
    """The whole degradation, without and with sharpening."""
    recipe = load_recipe("realesrnet").degradation
    assert recipe is not None
    device = torch.device(options.device)
    hr = load_canvases(options.batch, recipe.canvas)
    on_device = hr.to(device)
    rows = []
    for name, enabled in (("degradation", False), ("degradation with sharpening", True)):
        chosen = recipe.model_copy(update={"sharpen": recipe.sharpen.model_copy(update={"enabled": enabled})})
        degrader = Degrader(chosen, scale=SCALE, patch_size=options.patch, seed=0, device=device)
        known = KnownWay(chosen, options.patch)

        def run_ours(step: int, degrader: Degrader = degrader) -> None:
            degrader.degrade(on_device, step)
            if device.type == "cuda":
                torch.cuda.synchronize()

        def run_known(step: int, degrader: Degrader = degrader, known: KnownWay = known) -> None:
            known.degrade(hr, degrader.draw(step, 0, len(hr)))

        # Sharpening costs the known way seconds a batch.
        turns = max(rounds // 4, 4) if enabled else rounds
        rows.append(time_rounds(name, run_ours, None if device.type == "cuda" else run_known, turns))
    return rows


def measure_parts(options: argparse.Namespace, rounds: int) -> list[Comparison]:
    """The parts that are done in another way, each on whole canvases."""
    recipe = load_recipe("realesrnet").degradation
    assert recipe is not None
    hr = load_canvases(options.batch, recipe.canvas)
    degrader = Degrader(recipe, scale=SCALE, patch_size=options.patch, seed=0, device=hr.device)

    def by_slices(work: Callable[[slice], Tensor]) -> list[Tensor]:
        return map_in_threads(work, find_slices(hr))

    def stage(step: int) -> StageDraw:
        return replace(degrader.draw(step, 0, len(hr)).stages[0], gaussian=False)

    def kernels(step: int) -> Tensor:
        return make_kernels(stage(step).kernel, 21, hr.device)

    def known_kernels(step: int) -> list[NDArray[np.float64]]:
        return [make_kernel_known(stage(step).kernel, sample, 21) for sample in range(len(hr))]

    def blur(step: int) -> list[Tensor]:
        weights = kernels(step)
        return by_slices(lambda part: filter_samples(hr[part], weights[part]))

    def compress(step: int) -> list[Tensor]:
        quality = torch.from_numpy(stage(step).quality)
        return by_slices(lambda part: compress_jpeg(hr[part], quality[part]))

    def noise(step: int) -> list[Tensor]:
        now = stage(step)
        return by_slices(
            lambda part: add_poisson_noise(hr[part], now.poisson_scale[part], now.gray[part], torch.Generator())
        )

    dct = BlockTransform()
    parts: dict[str, tuple[Callable[[int], object], Callable[[int], object]]] = {
        "kernels": (kernels, known_kernels),
        "kernels and blur": (
            blur,
            lambda step: blur_known(hr, stage(step).kernel, 21),
        ),
        "Poisson noise": (noise, lambda step: add_noise_known(hr, stage(step))),
        "JPEG": (
            compress,
            lambda step: compress_known(hr, stage(step).quality, dct),
        ),
        "JPEG, against libjpeg": (
            compress,
            lambda step: compress_with_libjpeg(hr, stage(step).quality),
        ),
    }
    return [time_rounds(name, *ways, rounds) for name, ways in parts.items()]


def check_agreement(options: argparse.Namespace) -> float:
    """Largest mean difference in levels of 255 between the two ways, over steps without noise."""
    recipe = load_recipe("realesrnet").degradation
    assert recipe is not None
    hr = load_canvases(4, recipe.canvas)
    degrader = Degrader(recipe, scale=SCALE, patch_size=recipe.canvas, seed=0, device=hr.device)
    known = KnownWay(recipe, recipe.canvas)
    worst = 0.0
    for step in range(6):
        draw = degrader.draw(step, 0, len(hr))
        still = {"sigma": np.zeros(len(hr)), "poisson_scale": np.zeros(len(hr)), "gaussian": True}
        draw = replace(draw, stages=tuple(replace(stage, **still) for stage in draw.stages))
        ours, theirs = degrader.apply(hr, draw, step).lr_NCHW, known.degrade(hr, draw)[0]
        worst = max(worst, float((ours - theirs).abs().mean()) * 255)
    print(f"without noise the two differ by at most {worst:.2f} levels of 255 (mean over a batch)")
    return worst


def format_page(document: dict[str, object], rows: list[Comparison], batch: int) -> str:
    """The Markdown page."""
    lines = [
        "# High-order degradation: images a second",
        "",
        "Written by `benchmarks/degradation.py`; do not edit.",
        "",
        *(f"- {key}: {value}" for key, value in document.items()),
        "",
        "Means over rounds with the same parameters for both; rounds alternate. Ratio: images a second of ours over",
        "those of the known way (quartiles of the single rounds in brackets).",
        "",
        "| what | ours, ms a batch | images/s | known way, ms a batch | images/s | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        known = f"{row.known_ms:.1f} | {1e3 * batch / row.known_ms:.1f}" if row.known_ms else "- | -"
        ratio = f"**{row.ratio:.2f}** ({row.ratio_low:.2f} to {row.ratio_high:.2f})" if row.known_ms else "-"
        lines.append(f"| {row.name} | {row.ours_ms:.1f} | {1e3 * batch / row.ours_ms:.1f} | {known} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=12, help="images of a batch")
    parser.add_argument("--patch", type=int, default=256, help="side of the high-resolution patch")
    parser.add_argument("--threads", type=int, default=min(2, usable_cores()), help="threads of torch")
    parser.add_argument("--rounds", type=int, default=60, help="timed batches of each")
    parser.add_argument("--quick", action="store_true", help="8 rounds, and write nothing")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: ours alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    rounds = 8 if options.quick else options.rounds
    torch.set_num_threads(options.threads)
    agreement = check_agreement(options)
    rows = measure_whole(options, rounds)
    on_cpu = options.device == "cpu"
    if on_cpu:
        rows += measure_parts(options, max(rounds // 4, 4))
    if options.quick:
        return
    versions = tool_versions()
    document: dict[str, object] = {
        "machine": describe_machine().title(),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("torch", "numpy")),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/degradation.py", *sys.argv[1:]]),
        "work": f"batch {options.batch}, canvas 400, patch {options.patch}, {options.threads} threads, {rounds} rounds "
        "(a quarter of them with sharpening and for the parts)",
        "agreement": f"without noise the two ways differ by at most {agreement:.2f} levels of 255 (mean of a batch)",
    }
    name = "degradation" if on_cpu else "degradation_gpu"
    options.out.mkdir(parents=True, exist_ok=True)
    whole = document | {"rows": [asdict(row) for row in rows]}
    (options.out / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    (options.out / f"{name}.md").write_text(format_page(document, rows, options.batch), encoding="utf-8")


if __name__ == "__main__":
    main()
