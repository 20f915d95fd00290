"""Time the high-order degradation: ours, and the way it is widely done, side by side in one run.

    python benchmarks/degradation.py            # batch 12, canvas 400, patch 256; eight minutes on two cores
    python benchmarks/degradation.py --quick    # a few batches of each
    python benchmarks/degradation.py --device cuda    # ours alone, on a GPU

The known way is in `known_degradation.py`. Both get the same parameters, so both have the same work in every round.
Rounds alternate: A B, B A. They are many, because the parameters decide: where a batch draws Poisson noise for large
images, the known way takes far longer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from known_degradation import (
    BlockTransform,
    KnownWay,
    add_noise_known,
    blur_known,
    compress_known,
    compress_with_libjpeg,
    make_kernel_known,
)
from numpy.typing import NDArray
from pages import describe_run, head_lines, make_table, write_results
from torch import Tensor

from sr_deploy.imaging.codec import bundled_photographs, read_training_image
from sr_deploy.measure.machine import usable_cores
from sr_deploy.train.degradation.degrader import Degrader, find_slices
from sr_deploy.train.degradation.draws import StageDraw
from sr_deploy.train.degradation.filters import filter_samples
from sr_deploy.train.degradation.jpeg import compress_jpeg
from sr_deploy.train.degradation.kernels import find_sizes, make_kernels
from sr_deploy.train.degradation.noise import add_poisson_noise
from sr_deploy.train.degradation.threads import map_in_threads
from sr_deploy.train.recipe import load_recipe

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
        known = KnownWay(chosen, options.patch, SCALE)

        def run_ours(step: int, degrader: Degrader = degrader) -> None:
            degrader.degrade(on_device, step)
            if device.type == "cuda":
                torch.cuda.synchronize()

        def run_known(step: int, degrader: Degrader = degrader, known: KnownWay = known) -> None:
            known.degrade(hr, degrader.draw(step, 0, len(hr)))

        # Sharpening costs the known way seconds a batch.
        turns = max(rounds // 8, 4) if enabled else rounds
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
        weights, sizes = kernels(step), find_sizes(stage(step).kernel)
        return by_slices(lambda part: filter_samples(hr[part], weights[part], sizes[part]))

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
    known = KnownWay(recipe, recipe.canvas, SCALE)
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
    cells = []
    for row in rows:
        known = f"{row.known_ms:.1f} | {1e3 * batch / row.known_ms:.1f}" if row.known_ms else "- | -"
        ratio = f"**{row.ratio:.2f}** ({row.ratio_low:.2f} to {row.ratio_high:.2f})" if row.known_ms else "-"
        cells.append((row.name, f"{row.ours_ms:.1f}", f"{1e3 * batch / row.ours_ms:.1f}", known, ratio))
    lines = [
        *head_lines("High-order degradation: images a second", "degradation.py", document),
        "Means over rounds with the same parameters for both; rounds alternate. Ratio: images a second of ours over",
        "those of the known way (quartiles of the single rounds in brackets).",
        "",
        *make_table("what | ours, ms a batch | images/s | known way, ms a batch | images/s | ratio", cells),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=12, help="images of a batch")
    parser.add_argument("--patch", type=int, default=256, help="side of the high-resolution patch")
    parser.add_argument("--threads", type=int, default=min(2, usable_cores()), help="threads of torch")
    parser.add_argument("--rounds", type=int, default=200, help="timed batches of each")
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
        rows += measure_parts(options, max(rounds // 8, 4))
    if options.quick:
        return
    document = {
        **describe_run("torch", "numpy"),
        "work": f"batch {options.batch}, canvas 400, patch {options.patch}, {options.threads} threads, {rounds} rounds "
        "(an eighth of them with sharpening and for the parts)",
        "agreement": f"without noise the two ways differ by at most {agreement:.2f} levels of 255 (mean of a batch)",
    }
    name = "degradation" if on_cpu else "degradation_gpu"
    whole = document | {"rows": [asdict(row) for row in rows]}
    write_results(options.out / name, whole, format_page(document, rows, options.batch))


if __name__ == "__main__":
    main()
