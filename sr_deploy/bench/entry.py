"""A candidate on one shape: the turns that it took with others, from when it was loaded until it is released."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from sr_deploy.bench.candidate import Candidate
from sr_deploy.bench.choices import CandidateChoice
from sr_deploy.bench.device_timing import lengthen_schedule
from sr_deploy.bench.load import others_load, sample_load
from sr_deploy.bench.messages import DeviceAnswer
from sr_deploy.bench.statistics import Schedule, plan_schedule
from sr_deploy.measure.rounds import Turns
from sr_deploy.measure.watch import Watch
from sr_deploy.progress import OnProgress, Progress

_CALLS, _PIPELINED = 0.6, 0.8  # what is done of a group's turns after these


@dataclass
class Entry:
    """What was measured of a candidate."""

    choice: CandidateChoice
    process: Candidate
    own: Turns = field(default_factory=list)
    baseline: Turns = field(default_factory=list)
    """The baseline's turns in the same rounds."""
    pipelined: Turns = field(default_factory=list)
    """Its turns with several calls in flight; none where it does not take tensors on a GPU."""
    files: Turns = field(default_factory=list)
    """Its turns from file to file."""
    peak_mib: float = 0.0
    """Greatest resident memory before files were read."""
    device: DeviceAnswer | None = None
    """Calls by the GPU's clock, once it is released; None as for `pipelined`."""

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on one."""
        return self.process.opened["device"] != "cpu"

    @property
    def takes_tensors(self) -> bool:
        """Whether its input and output stay on a GPU."""
        return self.process.opened["arrays"] == "device"

    def release(self) -> None:
        """Ask for what it still has to tell, and end its process."""
        self.device = self.process.tell_device()
        self.process.close()


@dataclass
class Meanwhile:
    """What the machine did during the turns of one shape."""

    watch: Watch = field(default_factory=Watch)
    """Clocks, power and throttling."""
    rounds: list[int] = field(default_factory=list)
    """How many there were, for each group that took turns."""
    loads: list[float] = field(default_factory=list)
    """Processors that others kept busy, for each group, where that is known."""


def take_turns(entries: Sequence[Entry], seconds_each: float, meanwhile: Meanwhile, on_progress: OnProgress) -> None:
    """Let a group take turns: inference alone, several calls in flight on a GPU, then from file to file.

    Args:
        entries: the baseline first.
        seconds_each: for each candidate, on average; on a GPU its turns last longer if need be.
        meanwhile: gets what the machine does.
        on_progress: told of each round.
    """
    seconds = [one.process.opened["call_seconds"] for one in entries]
    schedule = lengthen_schedule(plan_schedule(seconds, seconds_each), seconds, [one.on_gpu for one in entries])
    calls = _time_calls(entries, schedule, meanwhile, on_progress)
    for entry, own in zip(entries, calls, strict=True):
        entry.own += own
        entry.baseline += calls[0]
    _time_pipelined([one for one in entries if one.takes_tensors], seconds_each, meanwhile, on_progress)
    for entry in entries:
        if not entry.files:
            entry.peak_mib = entry.process.measure_peak()
    _time_files(entries, seconds_each, on_progress)


def _time_calls(
    entries: Sequence[Entry], schedule: Schedule, meanwhile: Meanwhile, on_progress: OnProgress
) -> list[Turns]:
    processes = [one.process.process_id for one in entries]
    takers = [partial(one.process.take_turn, kind="calls") for one in entries]
    before = sample_load(processes)
    turns = meanwhile.watch.during(
        lambda: schedule.run(takers, _tell_rounds(on_progress, 0, _CALLS, "round", schedule))
    )
    load = others_load(before, sample_load(processes))
    meanwhile.rounds.append(len(turns[0]))
    meanwhile.loads += [] if load is None else [load]
    return turns


def _time_pipelined(
    entries: Sequence[Entry], seconds_each: float, meanwhile: Meanwhile, on_progress: OnProgress
) -> None:
    if not entries:
        return
    seconds = [one.process.opened["call_seconds"] for one in entries]
    schedule = lengthen_schedule(plan_schedule(seconds, seconds_each), seconds, [True] * len(entries))
    takers = [partial(one.process.take_turn, kind="pipelined") for one in entries]
    on_round = _tell_rounds(on_progress, _CALLS, _PIPELINED, "several in flight, round", schedule)
    turns = meanwhile.watch.during(lambda: schedule.run(takers, on_round))
    for entry, own in zip(entries, turns, strict=True):
        entry.pipelined += own


def _time_files(entries: Sequence[Entry], seconds_each: float, on_progress: OnProgress) -> None:
    """In half the time; the first call of each only tells how long one takes."""
    takers = [partial(one.process.take_turn, kind="files") for one in entries]
    schedule = plan_schedule([one(1, primed=True)[0] for one in takers], seconds_each / 2)
    turns = schedule.run(takers, _tell_rounds(on_progress, _PIPELINED, 1, "files, round", schedule))
    for entry, own in zip(entries, turns, strict=True):
        entry.files += own


def _tell_rounds(
    on_progress: OnProgress, begin: float, end: float, what: str, schedule: Schedule
) -> Callable[[int], None]:
    """For `Schedule.run`: from `begin` to `end` of what is to do."""

    def tell(done: int) -> None:
        share = begin + (end - begin) * min(1, done / schedule.rounds)
        on_progress(Progress(f"{what} {done}", share, 1, "shapes"))

    return tell
