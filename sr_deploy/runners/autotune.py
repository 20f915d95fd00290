"""Choices of one model against each other on one tile: in turns, and slow ones drop out early. Takes some seconds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import PRECISIONS, BackendChoice
from sr_deploy.bundle import Shape
from sr_deploy.errors import BackendError
from sr_deploy.graph.read import describe_graph_cost
from sr_deploy.measure.rounds import run_rounds
from sr_deploy.measure.timer import time_call, time_turn
from sr_deploy.model import Model
from sr_deploy.runners.choose import open_runner
from sr_deploy.runners.protocol import Runner, RunnerSpec

_SIDES = (32, 128)  # of the tile: a small network takes the larger one, a large one would take seconds for it
_TILE_FLOPS = 4e10
_TURN_SECONDS = 0.03
_MOST_CALLS = 10  # in a turn
_MIN_ROUNDS, _MAX_ROUNDS = 1 + 3, 1 + 9  # in the first, runners are opened
_SECONDS = 2.0  # for the other rounds of all together
_HOPELESS = 2.5  # times the fastest: dropped after its first call
_SLOW = 1.25  # times the fastest: dropped after `_MIN_ROUNDS`
_ALIKE = 1.03  # times the fastest: the more precise one is taken


@dataclass(frozen=True)
class AutotuneResult:
    """What was measured."""

    winner: BackendChoice
    """The fastest; the most precise of those that are as fast."""
    shape: Shape
    """What all of them computed."""
    milliseconds: dict[str, float]
    """Time of the quickest call, the fastest first; a choice that was dropped early had fewer calls."""
    failed: dict[str, str]
    """Choices that did not open or compute, and why."""


def autotune(
    model: Model, candidates: Sequence[BackendChoice], *, device: str | None = None, threads: int | None = None
) -> AutotuneResult:
    """Time the choices in turns, A B C A B C ...; the quickest call of each counts.

    Args:
        model: has a graph.
        candidates: each runs here; the order is that of their turns.
        device: as for `open_runner`.
        threads: as for `open_runner`.

    Raises:
        BackendError: none of them computes this model.
    """
    entered: dict[BackendChoice, _Candidate] = {}
    failed: dict[str, str] = {}

    def take_turn(choice: BackendChoice) -> list[float]:
        try:
            if choice in entered:
                return entered[choice].take_turn()
            runner = stack.enter_context(open_runner(model, choice, device=device, threads=threads))
            entered[choice] = _Candidate(choice, runner, _draw_tile(model, runner.spec))
        except BackendError as error:
            failed[str(choice)] = str(error)
            return []
        return [entered[choice].seconds]

    def drop(index: int) -> None:
        if candidates[index] in entered:
            entered[candidates[index]].runner.close()  # its memory goes back

    with contextlib.ExitStack() as stack:
        run_rounds(
            [partial(take_turn, choice) for choice in candidates],
            min_rounds=_MIN_ROUNDS,
            max_rounds=_MAX_ROUNDS,
            seconds=_SECONDS,
            slow=lambda turns: _SLOW if turns >= _MIN_ROUNDS else _HOPELESS,
            on_drop=drop,
        )
    winner = _pick([one for one in entered.values() if str(one.choice) not in failed])
    if winner is None:
        raise BackendError(f"nothing computes {model.path} here: {'; '.join(failed.values())}")
    ranked = sorted(entered.values(), key=lambda one: one.seconds)
    n, _, h, w = winner.lr_NCHW.shape
    return AutotuneResult(
        winner=winner.choice,
        shape=Shape(n, h, w),
        milliseconds={str(one.choice): round(1e3 * one.seconds, 3) for one in ranked},
        failed=failed,
    )


@dataclass
class _Candidate:
    """A choice that takes turns."""

    choice: BackendChoice
    runner: Runner
    lr_NCHW: NDArray[np.float32]
    seconds: float = math.inf
    """Of the quickest call."""

    def __post_init__(self) -> None:
        self._infer()  # compiles kernels for the shape
        self.seconds = time_call(self._infer)

    def take_turn(self) -> list[float]:
        calls = int(np.clip(_TURN_SECONDS / self.seconds, 1, _MOST_CALLS))
        seconds = time_turn(self._infer, calls, primed=True)
        self.seconds = min(self.seconds, *seconds)
        return seconds

    def _infer(self) -> object:
        return self.runner.infer(self.lr_NCHW)


def _pick(able: Sequence[_Candidate]) -> _Candidate | None:
    """The winner of those that did not fail: one that was dropped as too slow may be all that is left."""
    fastest = min((one.seconds for one in able), default=math.inf)
    alike = [one for one in able if one.seconds <= _ALIKE * fastest]
    return min(alike, key=lambda one: (_rank_precision(one.choice), one.seconds), default=None)


def _rank_precision(choice: BackendChoice) -> tuple[int, bool]:
    """The lower, the more precise."""
    return PRECISIONS.index(choice.precision), choice.floats is not None


def _draw_tile(model: Model, spec: RunnerSpec) -> NDArray[np.float32]:
    """Noise of the size of a tile that takes a moment; times do not depend on what is shown."""
    flops = describe_graph_cost(model.graph_path(model.precisions[0])).flops_per_input_pixel
    side = float(np.clip(math.sqrt(_TILE_FLOPS / max(flops or _TILE_FLOPS, 1.0)), *_SIDES))
    step = math.lcm(16, spec.input_multiple)
    rounded = math.ceil(side / step) * step
    shape = Shape(1, rounded, rounded)
    if spec.profiles:  # a graph of fixed size
        low, high = spec.profiles[0].min, spec.profiles[0].max
        shape = Shape(*(min(max(wanted, least), most) for wanted, least, most in zip(shape, low, high, strict=True)))
    return np.random.default_rng(0).random((shape.n, spec.channels, shape.h, shape.w), dtype=np.float32)
