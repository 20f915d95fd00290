"""The best and the last checkpoint on photographs of the validation, computed when the page is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sr_deploy.arch.quantized import quantize_convolutions
from sr_deploy.arch.registry import input_multiple
from sr_deploy.errors import InputError, TrainingError
from sr_deploy.imaging.encoding import round_to_8bit
from sr_deploy.imaging.resize import upscale_bicubic
from sr_deploy.imaging.sheet import find_worst_window
from sr_deploy.model import open_model
from sr_deploy.run_folder import list_checkpoints
from sr_deploy.train.originals import OriginalPair
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.recipe_images import open_validation_images
from sr_deploy.train.validation import upscale

SIDE = 320
"""Of what is shown, in high-resolution pixels."""
_SEARCHED = 1024
"""Side of the middle of a photograph in which that is looked for."""
_MARGIN = 32
"""Low-resolution pixels around it that the networks see."""
_SHOWN, _TRIED = 2, 10


@dataclass(frozen=True)
class Comparison:
    """One place of a photograph, enlarged in several ways."""

    name: str
    """Of its file, without suffix."""
    checkpoints: Sequence[NDArray[np.uint8]]
    """By each of the networks, H x W x C."""
    bicubic: NDArray[np.uint8]
    original: NDArray[np.uint8]


def find_compared(run: Path, best_step: int | None) -> list[tuple[str, int, Path]]:
    """Name, step and folder of the checkpoints to compare: best and last, or the last alone.

    Args:
        run: the run's folder.
        best_step: of the best validation; None: there is none.

    Raises:
        InputError: none is kept.
    """
    kept = list_checkpoints(run)
    if not kept:
        raise InputError(f"{run} has no checkpoint yet")
    last = ("last", *kept[-1])
    best = [("best", step, folder) for step, folder in kept[:-1] if step == best_step]
    return [*best, last]


def compare(recipe: Recipe, folders: Sequence[Path]) -> list[Comparison]:
    """Up to two photographs, each where bicubic is furthest from the original, by the averaged generators, in FP32.

    Args:
        recipe: names the photographs.
        folders: of checkpoints.

    Raises:
        InputError: the photographs are gone, or the weights are not of the recipe's network.
        TrainingError: a network gives NaN or infinite values, or cannot compute.
    """
    photographs = open_validation_images(recipe)
    networks = [_load_network(recipe, folder) for folder in folders]
    pairs = ((path, photographs.pair(index)) for index, path in enumerate(photographs.paths[:_TRIED]))
    compared: list[Comparison] = []
    for path, pair in pairs:
        if pair is not None:
            compared.append(_compare_at_worst(recipe, path.stem, pair, networks))
        if len(compared) == _SHOWN:
            break
    return compared


def _load_network(recipe: Recipe, folder: Path) -> nn.Module:
    model = open_model(folder)
    if (model.scale, model.channels) != (recipe.scale, recipe.channels):
        raise InputError(
            f"{folder} holds a network of x{model.scale} and {model.channels} channels, and the recipe trains "
            f"x{recipe.scale} and {recipe.channels}"
        )
    network = model.load_network()
    if recipe.quantization is not None:
        quantize_convolutions(network, recipe.quantization.input_steps)
    return network


def _compare_at_worst(recipe: Recipe, name: str, pair: OriginalPair, networks: Sequence[nn.Module]) -> Comparison:
    scale, multiple = recipe.scale, input_multiple(recipe.arch_spec())
    middle = [_find_middle(length, multiple, _SEARCHED // scale) for length in pair.lr.shape[:2]]
    lr = np.ascontiguousarray(pair.lr[tuple(middle)])
    hr = pair.hr[tuple(slice(one.start * scale, one.stop * scale) for one in middle)]
    bicubic, original = round_to_8bit(upscale_bicubic(lr, scale)), round_to_8bit(hr)
    window = find_worst_window(bicubic, original, SIDE)
    seen = [_find_seen(one, length, scale, multiple) for one, length in zip(window, lr.shape[:2], strict=True)]
    inner = tuple(
        slice(one.start - around.start * scale, one.stop - around.start * scale)
        for one, around in zip(window, seen, strict=True)
    )
    part = np.ascontiguousarray(lr[tuple(seen)])
    try:
        results = [round_to_8bit(upscale(network, part, name, hr.dtype))[inner] for network in networks]
    except RuntimeError as error:
        raise TrainingError(f"the network does not compute {name}: {error}") from error
    return Comparison(name, results, bicubic[window], original[window])


def _find_middle(length: int, multiple: int, max_length: int) -> slice:
    kept = max(min(length, max_length) // multiple, 1) * multiple
    start = (length - kept) // 2 // multiple * multiple
    return slice(start, start + kept)


def _find_seen(window: slice, length: int, scale: int, multiple: int) -> slice:
    """What the networks get of low resolution, of this length, to give what lies in a window of high resolution."""
    start = max(window.start // scale - _MARGIN, 0) // multiple * multiple
    stop = min(math.ceil(window.stop / scale) + _MARGIN, length)
    return slice(start, min(math.ceil(stop / multiple) * multiple, length))
