"""Which number format and memory layout trains fastest here: measured on the real network and batch, not assumed."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from sr_deploy.measure.rounds import run_rounds
from sr_deploy.progress import format_span
from sr_deploy.train.recipe import PrecisionRecipe
from sr_deploy.train.run import PrecisionRecord

_LOG = logging.getLogger(__name__)

Autocast = Literal["off", "bf16", "fp16"]

_DTYPES: dict[Autocast, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What is less exact, or another layout, must be clearly faster; noise must not decide, or two runs would differ.
_WORTHWHILE = 0.9
# A candidate this much slower on a single sample is out before a whole batch is tried; one whose very first pass, which
# pays for kernels too, is slower by the second factor is out at once (FP16 on a CPU).
_HOPELESS, _HOPELESS_AT_ONCE = 2.0, 30.0
_MAX_ROUNDS = 20
_SECONDS = 4.0


class PrecisionChoice(PrecisionRecord):
    """A record of the run, with what torch needs to act on it."""

    def memory_format(self) -> torch.memory_format:
        """The layout of activations and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast_on(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which the network is called while training."""
        dtype = _DTYPES.get(self.autocast, torch.bfloat16)
        return torch.autocast(device.type, dtype=dtype, enabled=self.autocast != "off")


def choose_precision(recipe: PrecisionRecipe, network: nn.Module, lr_NCHW: Tensor, steps: int = 1) -> PrecisionChoice:
    """Measure what the recipe leaves open; a line says before what is measured, and how long all of it may take.

    Args:
        recipe: what may be chosen.
        network: the generator; it is not changed.
        lr_NCHW: a batch on its device.
        steps: of the run, for the estimate.

    Raises:
        torch.OutOfMemoryError: not even FP32 fits.
    """
    candidates = _list_candidates(recipe)
    if len(candidates) == 1:
        return candidates[0]
    trials, patch_seconds = _keep_hopeful(candidates, network, lr_NCHW[:1])
    seconds = patch_seconds * len(lr_NCHW)
    _LOG.info(
        "measures which number format is fastest: %s (estimated from one patch in %s: %s for a step, %s for all %d)",
        ", ".join(trial.choice.title() for trial in trials),
        trials[0].choice.title(),
        format_span(seconds),
        format_span(seconds * steps),
        steps,
    )

    def take_turn(trial: _Trial) -> list[float]:
        return [trial.time_pass(lr_NCHW)]

    rounds = run_rounds(
        [partial(take_turn, trial) for trial in trials],
        min_rounds=2,
        max_rounds=1 + _MAX_ROUNDS,
        seconds=_SECONDS,
    )
    # The first round pays for kernels and memory. The minimum is what a busy machine disturbs least.
    quickest = [round(1000 * min(map(min, turns[1:])), 2) for turns in rounds]
    milliseconds = {trial.choice.title(): its for trial, its in zip(trials, quickest, strict=True)}
    best = trials[0].choice
    for trial in trials:
        if milliseconds[trial.choice.title()] < _WORTHWHILE * milliseconds[best.title()]:
            best = trial.choice
    return best.model_copy(update={"step_milliseconds": milliseconds})


def _list_candidates(recipe: PrecisionRecipe) -> list[PrecisionChoice]:
    """From the plainest to the least exact."""
    formats: tuple[Autocast, ...] = ("off", "bf16", "fp16") if recipe.autocast == "auto" else (recipe.autocast,)
    layouts = (False, True) if recipe.channels_last == "auto" else (recipe.channels_last,)
    return [PrecisionChoice(autocast=form, channels_last=layout) for form, layout in product(formats, layouts)]


class _Trial:
    """A copy of the network that computes as one candidate says."""

    def __init__(self, choice: PrecisionChoice, network: nn.Module) -> None:
        self.choice = choice
        copied = copy.deepcopy(network).train()
        self._network = copied.to(memory_format=choice.memory_format())  # type: ignore[call-overload]

    def time_pass(self, lr_NCHW: Tensor) -> float:
        """Seconds of one forward and backward pass; a plain loss, as the networks take nearly all of the time."""
        lr = lr_NCHW.contiguous(memory_format=self.choice.memory_format())
        started = time.perf_counter()
        with self.choice.autocast_on(lr.device):
            sr = self._network(lr)
        sr.float().square().mean().backward()
        if lr.device.type == "cuda":
            torch.cuda.synchronize(lr.device)
        seconds = time.perf_counter() - started
        self._network.zero_grad(set_to_none=True)
        return seconds


def _keep_hopeful(
    candidates: Sequence[PrecisionChoice], network: nn.Module, sample: Tensor
) -> tuple[list[_Trial], float]:
    """Trials of the candidates that are not far slower than the first one, as one sample shows, and its seconds."""
    plain = _Trial(candidates[0], network)
    reference = min(plain.time_pass(sample) for _ in range(3))
    hopeful = [plain]
    for candidate in candidates[1:]:
        trial = _Trial(candidate, network)
        if trial.time_pass(sample) > _HOPELESS_AT_ONCE * reference:
            continue
        if min(trial.time_pass(sample) for _ in range(3)) <= _HOPELESS * reference:
            hopeful.append(trial)
    return hopeful, reference
