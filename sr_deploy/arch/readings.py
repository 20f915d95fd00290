"""Which of several networks a file of weights holds, where its shapes do not tell: the one that gives a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sr_deploy.arch.fold import merge_branches
from sr_deploy.arch.registry import build_network, complete_spec, get_architecture, input_multiple
from sr_deploy.arch.spec import ArchSpec

_SIDE = 32
_SIMILAR = 0.1
"""Root mean square between a picture and its enlargement made small again, from which on it is no picture of it."""


def choose_reading(spec: ArchSpec, state: Mapping[str, Tensor]) -> tuple[ArchSpec, str | None]:
    """The network that weights are for.

    Each candidate enlarges a flat gray and a picture of shades and edges; the first one whose results, made small
    again, resemble them is taken. Where none does, as with weights that were not trained, it is the likeliest.

    Args:
        spec: what the shapes say.
        state: the weights, under our keys.

    Returns:
        The spec, and a line that says how it was found; None where the shapes tell.
    """
    readings = get_architecture(spec.architecture).readings(complete_spec(spec))
    if len(readings) < 2:
        return spec, None
    errors: list[float] = []
    for reading in readings:
        errors.append(_measure_error(reading, state))
        if errors[-1] <= _SIMILAR:
            break
    best = len(errors) - 1 if errors[-1] <= _SIMILAR else 0
    return ArchSpec(**readings[best].model_dump()), _describe(readings, best, errors)


def _describe(readings: Sequence[ArchSpec], best: int, errors: Sequence[float]) -> str:
    """As in `norm True, img_range 255: ... found by trial (result 0.02 off a test picture; norm False ... 0.4)`."""
    names = [key for key in readings[0].options if len({reading.options[key] for reading in readings}) > 1]
    texts = [", ".join(f"{key} {reading.options[key]}" for key in names) for reading in readings]
    seen = "; ".join(f"{text}: {error:.2g}" for text, error in zip(texts, errors, strict=False))
    how = "found by trial" if errors[best] <= _SIMILAR else "and no choice gives a picture; taken as published"
    return f"{texts[best]}: not said by the file, {how} (root mean square off a test picture: {seen})"


def _measure_error(spec: ArchSpec, state: Mapping[str, Tensor]) -> float:
    with torch.device("meta"):
        network = build_network(spec)
    network.load_state_dict(state, assign=True)
    network = merge_branches(network.eval().requires_grad_(False))
    worst = 0.0
    for lr_NCHW in _draw_pictures(spec):
        with torch.inference_mode():
            small = torch.nn.functional.avg_pool2d(network(lr_NCHW), spec.scale)
        error = float((small - lr_NCHW).square().mean().sqrt())
        worst = max(worst, error) if math.isfinite(error) else math.inf
    return worst


def _draw_pictures(spec: ArchSpec) -> tuple[Tensor, Tensor]:
    """1 x C x H x W each: flat gray; and shades that differ by channel, with a brighter disk."""
    multiple = input_multiple(spec)
    side = -(-_SIDE // multiple) * multiple
    ramp = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    shades = torch.stack([0.25 + 0.4 * x, 0.5 - 0.3 * y, 0.2 + 0.2 * (x + y)][: spec.channels])
    disk = (((x - 0.5) ** 2 + (y - 0.4) ** 2) < 0.06).float()
    return torch.full((1, spec.channels, side, side), 0.5), (shades + 0.25 * disk)[None]
