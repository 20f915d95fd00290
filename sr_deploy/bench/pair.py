"""A plain graph and a rewritten one timed in turn: does the second take less time?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import list_for_auto
from sr_deploy.bench.statistics import compare_speed, plan_schedule, summarize_calls
from sr_deploy.bundle import Shape
from sr_deploy.measure.timer import time_turn
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner, runnable_choices
from sr_deploy.runners.inputs import photograph_batch

_WARM_UP_CALLS = 3
_SIDE = 64


@dataclass(frozen=True)
class PairTiming:
    """Two graphs in one process, in turn."""

    backend: str
    """Who computed, as in `openvino:fp32`."""
    shape: str
    """Of the input, as in `1x64x128` (batch, height, width)."""
    before_ms: float
    """Median time of a call of the first graph."""
    after_ms: float
    """Median time of a call of the second."""
    ratio: float
    """Times as fast as the first is the second: median over the rounds of the ratio within a round."""
    ratio_low: float
    """10th percentile of these ratios."""
    ratio_high: float
    """90th percentile of them."""
    rewrites: tuple[str, ...] = ()
    """What the runner changed in the second graph besides, as it does whenever it opens it."""


def time_pair(before: Path, after: Path, *, seconds_each: float = 0.4) -> PairTiming | None:
    """Time two FP32 graphs on the first backend of `auto` that runs graphs on this CPU.

    The first is run as it lies in its file. The second is run as it always is: with what its runner changes at opening.

    Args:
        before: an ONNX file.
        after: another of the same network.
        seconds_each: how long, on average.

    Returns:
        None where there is none.

    Raises:
        GraphError: a file is not an image graph.
        BackendError: a graph does not run.
    """
    models = open_model(before), open_model(after)
    runnable = runnable_choices(models[0])
    preferred = (BackendChoice(one.name) for one in list_for_auto("cpu") if one.artifact == "graph")
    choice = next((one for one in preferred if one in runnable), None)
    if choice is None:
        return None
    side = _SIDE + -_SIDE % models[0].input_multiple
    shape = Shape(1, side, side)
    lr_NCHW = photograph_batch(shape, models[0].channels, models[0].scale)
    with open_runner(models[0], choice, rewrite=False) as first, open_runner(models[1], choice) as second:
        takes = [partial(time_turn, partial(runner.infer, lr_NCHW)) for runner in (first, second)]
        one_call = [min(take(_WARM_UP_CALLS, primed=False)) for take in takes]
        turns = plan_schedule(one_call, seconds_each).run(takes)
        added = second.spec.rewrites
    gain = compare_speed(turns[0], turns[1])
    return PairTiming(
        backend=str(choice),
        shape=str(shape),
        before_ms=1000 * summarize_calls(turns[0]).median,
        after_ms=1000 * summarize_calls(turns[1]).median,
        ratio=gain.ratio,
        ratio_low=gain.low,
        ratio_high=gain.high,
        rewrites=added,
    )
