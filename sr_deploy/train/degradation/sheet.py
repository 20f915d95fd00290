"""A picture of what a degradation does: originals, kernels, results, and the parameters of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.imaging.sheet import Cell, compose_sheet
from sr_deploy.train.degradation.degrader import Degrader, TrainingPair
from sr_deploy.train.degradation.draws import KINDS, NONE, SINC, BatchDraw, KernelDraw, StageDraw
from sr_deploy.train.degradation.kernels import make_kernels
from sr_deploy.train.recipe.degradation import DegradationRecipe
from sr_deploy.train.sampling import cut_canvas, random_for

_PLACE_STREAM = 14
_SAMPLES_IN_A_ROW = 2
_GAP = 8


@dataclass(frozen=True)
class ContactSheet:
    """What `draw_contact_sheet` gives."""

    image: NDArray[np.uint8]
    """H x W x 3."""
    samples: list[dict[str, object]]
    """The parameters of each sample, as plain values."""


def draw_contact_sheet(
    photograph: NDArray[np.uint8], recipe: DegradationRecipe, *, scale: int, patch_size: int, seed: int, count: int
) -> ContactSheet:
    """Degrade pieces of a photograph, each as a batch of its own, and draw them.

    Args:
        photograph: H x W x 3, 8 bit; reflected where it is smaller than the canvas.
        recipe: of the degradation.
        scale: of the training.
        patch_size: side of the pieces that are shown, in pixels.
        seed: where all random draws begin.
        count: how many.
    """
    degrader = Degrader(recipe, scale=scale, patch_size=patch_size, seed=seed, device=torch.device("cpu"))
    side = max(*recipe.first.blur.sizes, *recipe.second.blur.sizes, *recipe.final.sizes)
    cells: list[list[Cell]] = []
    samples: list[dict[str, object]] = []
    for number in range(count):
        canvas = cut_canvas(photograph, recipe.canvas, random_for(seed, _PLACE_STREAM, number, 0))
        hr_NCHW = torch.from_numpy(np.ascontiguousarray(canvas)).permute(2, 0, 1)[None].float() / 255
        pair, draw = degrader.degrade(hr_NCHW, number), degrader.draw(number, 0, 1)
        described = describe_sample(draw)
        if number % _SAMPLES_IN_A_ROW == 0:
            cells.append([])
        else:
            cells[-1].append(Cell(np.full((1, _GAP, 3), 255, np.uint8)))  # more room between samples
        cells[-1] += _draw_sample(number, pair, draw, described, scale=scale, side=side)
        samples.append(described)
    return ContactSheet(compose_sheet(cells, gap=_GAP), samples)


def describe_sample(draw: BatchDraw, sample: int = 0) -> dict[str, object]:
    """The parameters that had an effect on one sample."""
    orders: list[dict[str, object]] = [
        {
            "blur": _describe_kernel(stage.kernel, sample),
            "resize": {"factor": round(stage.factor, 3), "mode": stage.mode},
            "noise": _describe_noise(stage, sample),
            "jpeg_quality": int(stage.quality[sample]) or None,
        }
        for stage in draw.stages
    ]
    final = {"resize": draw.final_mode, "sinc": _describe_kernel(draw.final, sample), "jpeg_last": draw.jpeg_last}
    return {"orders": orders, "final": final}


def draw_kernels(kernels_NKK: Tensor, side: int) -> NDArray[np.uint8]:
    """Kernels one below the other, each enlarged and scaled to its peak; `side` x H x 3.

    White is the peak; what is below zero is blue. The square root lets faint tails be seen.
    """
    room = (side - 2 * (len(kernels_NKK) - 1)) // len(kernels_NKK)
    pixels = max(room // kernels_NKK.shape[-1], 1)
    drawn = np.full((side, pixels * kernels_NKK.shape[-1], 3), 255, np.uint8)
    for number, kernel in enumerate(kernels_NKK.numpy()):
        share = np.sqrt(np.abs(kernel) / np.abs(kernel).max())
        color = np.stack([np.where(kernel > 0, share, 0.25 * share)] * 2 + [share], axis=-1)
        picture = np.rint(255 * color).astype(np.uint8).repeat(pixels, axis=0).repeat(pixels, axis=1)
        top = number * (picture.shape[0] + 2)
        drawn[top : top + picture.shape[0]] = picture
    return drawn


def _draw_sample(
    number: int, pair: TrainingPair, draw: BatchDraw, described: Mapping[str, object], *, scale: int, side: int
) -> list[Cell]:
    original, low = (_to_image(image[0]) for image in (pair.target_NCHW, pair.lr_NCHW))
    draws = [*(stage.kernel for stage in draw.stages), draw.final]
    kernels = torch.cat([make_kernels(kernel, side, torch.device("cpu")) for kernel in draws])
    names = ("first", "second", "last") if len(draws) == 3 else ("first", "last")
    return [
        Cell(original, f"{number + 1}\n{_caption_order('first', described, 0)}"),
        Cell(draw_kernels(kernels, original.shape[0]), "kernels: " + ", ".join(names)),
        Cell(low.repeat(scale, axis=0).repeat(scale, axis=1), _caption_end(described)),
    ]


def _to_image(image_CHW: Tensor) -> NDArray[np.uint8]:
    return (image_CHW * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _describe_kernel(draw: KernelDraw, sample: int) -> dict[str, object]:
    kind = int(draw.kind[sample])
    described: dict[str, object] = {"kind": KINDS[kind]}
    if kind == NONE:
        return described
    described["size"] = int(draw.size[sample])
    if kind == SINC:
        return described | {"cutoff": round(float(draw.cutoff[sample]), 3)}
    widths = [round(float(width), 3) for width in draw.sigma[sample]]
    if "anisotropic" in KINDS[kind]:
        described |= {"sigma": widths, "rotation": round(float(draw.rotation[sample]), 3)}
    else:
        described["sigma"] = widths[0]
    if " " in KINDS[kind]:
        described["beta"] = round(float(draw.beta[sample]), 3)
    return described


def _describe_noise(stage: StageDraw, sample: int) -> dict[str, object]:
    if not (stage.sigma if stage.gaussian else stage.poisson_scale)[sample]:
        return {"kind": "none"}
    strength = (
        {"kind": "Gaussian", "sigma": round(float(stage.sigma[sample]), 2)}
        if stage.gaussian
        else {"kind": "Poisson", "scale": round(float(stage.poisson_scale[sample]), 3)}
    )
    return strength | {"gray": bool(stage.gray[sample])}


def _caption_order(name: str, described: Mapping[str, object], number: int) -> str:
    orders = described["orders"]
    assert isinstance(orders, list)
    order = orders[number]
    resize = order["resize"]
    return (
        f"{name} blur: {_kernel_words(order['blur'])}\n"
        f"resize: x{resize['factor']:.2f} {resize['mode']}\n"
        f"noise: {', '.join(_words(order['noise']))}\nJPEG: {order['jpeg_quality'] or 'none'}"
    )


def _caption_end(described: Mapping[str, object]) -> str:
    final = described["final"]
    assert isinstance(final, dict)
    sinc = "no filter" if final["sinc"]["kind"] == "none" else _kernel_words(final["sinc"])
    order = "before the last JPEG" if final["jpeg_last"] else "after the last JPEG"
    second = [_caption_order("second", described, 1)] if len(cast(list[object], described["orders"])) > 1 else []
    return "\n".join(["result", *second, f"last: resize {final['resize']}, {sinc}, {order}"])


def _kernel_words(kernel: Mapping[str, object]) -> str:
    if kernel["kind"] == "none":
        return "none"
    rest = {name: value for name, value in kernel.items() if name not in ("kind", "size")}
    return ", ".join([f"{kernel['kind']} {kernel['size']}", *_words(rest)])


def _words(values: Mapping[str, object]) -> list[str]:
    words = []
    for name, value in values.items():
        if name == "kind":
            words.append(f"{value}")
        elif isinstance(value, bool):
            words += [name] if value else []
        else:
            numbers = value if isinstance(value, list) else [value]
            words.append(f"{name} {' '.join(f'{number:.2f}' for number in numbers)}")
    return words
