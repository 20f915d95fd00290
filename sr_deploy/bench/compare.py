"""Two reports of one machine: what got faster, what got slower, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Literal

from sr_deploy.bench.report import BenchReport, BenchResult
from sr_deploy.config import Document
from sr_deploy.errors import InputError

DEFAULT_MAX_SLOWDOWN = 10.0
"""Of a median, in percent, before it counts as a regression."""
BUSY_PROCESSORS = 0.2
"""What others may use before a figure is doubted."""

Verdict = Literal["faster", "slower", "same", "unverified", "gone", "new"]


class Change(Document):
    """One candidate on one shape, in both reports."""

    candidate: str
    """Backend, precision and variant."""
    shape: str
    """Of the input, as in `1x64x128` (batch, height, width)."""
    verdict: Verdict
    """`faster` or `slower`: the medians lie further apart than both spreads together. `unverified`: it was verified in
    the old report and is not in the new one. `gone`, `new`: in one report only."""
    old_ms: float | None
    """Median of the old report in ms; None: not in it."""
    new_ms: float | None
    """Median of the new report in ms; None: not in it."""
    change_percent: float | None
    """Time taken more (less: negative), in percent of the old median."""
    noise_percent: float | None
    """Both spreads together, in percent of the old median."""
    memory_change_mib: float | None
    """Peak memory more, in MiB."""
    regression: bool
    """Slower beyond the bound, no longer verified, or gone."""


class BenchComparison(Document):
    """What `sr-deploy bench --compare` found."""

    max_slowdown_percent: float
    """Percent of the old median beyond which a candidate has regressed."""
    changes: tuple[Change, ...]
    """By shape, in the old report's order; new ones last."""
    flips: tuple[str, ...]
    """Pairs of candidates whose order changed although their distance was beyond their spreads in both reports."""
    notes: tuple[str, ...]
    """What differs besides, and what makes the figures doubtful."""

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What a gate has to stop at."""
        return tuple(change for change in self.changes if change.regression)


def compare_reports(
    old: BenchReport, new: BenchReport, max_slowdown_percent: float = DEFAULT_MAX_SLOWDOWN
) -> BenchComparison:
    """Compare what was measured on one machine with the same inputs.

    Args:
        old: before a change.
        new: after it.
        max_slowdown_percent: how much slower a candidate may be, where it is slower beyond the noise.

    Raises:
        InputError: another machine, or other inputs: their times say nothing about each other.
    """
    _require_comparable(old, new)
    before, after = (_by_place(report) for report in (old, new))
    places = dict.fromkeys([*before, *after])
    changes = [_compare(before.get(place), after.get(place), max_slowdown_percent) for place in places]
    return BenchComparison(
        max_slowdown_percent=max_slowdown_percent,
        changes=tuple(changes),
        flips=tuple(_find_flips(before, after)),
        notes=tuple(_find_notes(old, new)),
    )


def is_apart(one: BenchResult, other: BenchResult) -> bool:
    """Whether two medians lie further apart than both spreads together."""
    return abs(one.median_ms - other.median_ms) > one.spread_ms + other.spread_ms


def _by_place(report: BenchReport) -> dict[tuple[str, str], BenchResult]:
    return {(result.shape, result.candidate): result for result in report.results}


def _require_comparable(old: BenchReport, new: BenchReport) -> None:
    before, after = (_describe_setting(report) for report in (old, new))
    for what, value in before.items():
        if value != after[what]:
            raise InputError(f"{what} differs, so the times cannot be compared: {value}, then {after[what]}")
    hashes = {run.shape: run.sha256 for run in old.runs}
    shared = [run for run in new.runs if run.shape in hashes]
    if not shared:
        raise InputError(
            f"no shape is in both reports: {', '.join(hashes)} and {', '.join(run.shape for run in new.runs)}; "
            "measure again with the same --shape"
        )
    for run in shared:
        if run.sha256 != hashes[run.shape]:
            raise InputError(f"the inputs of {run.shape} differ (their hashes do); measure both with one version")


def _describe_setting(report: BenchReport) -> dict[str, str]:
    """What has to be the same in both."""
    machine = report.machine
    return {
        "the machine": " ".join((f"{machine.cores} x {machine.cpu}", *machine.features, *machine.gpus)),
        "the number of threads": str(report.threads),
        "the scale": str(report.scale),
        "the number of channels": str(report.channels),
    }


def _compare(old: BenchResult | None, new: BenchResult | None, bound: float) -> Change:
    known = old or new
    assert known is not None  # a place is in one of the two
    if old is None or new is None:
        return Change(
            candidate=known.candidate,
            shape=known.shape,
            verdict="gone" if new is None else "new",
            old_ms=old.median_ms if old else None,
            new_ms=new.median_ms if new else None,
            change_percent=None,
            noise_percent=None,
            memory_change_mib=None,
            regression=new is None,
        )
    change = 100 * (new.median_ms / old.median_ms - 1)
    verdict: Verdict = "same"
    if old.parity.verified and not new.parity.verified:
        verdict = "unverified"
    elif is_apart(old, new):
        verdict = "slower" if change > 0 else "faster"
    return Change(
        candidate=known.candidate,
        shape=known.shape,
        verdict=verdict,
        old_ms=old.median_ms,
        new_ms=new.median_ms,
        change_percent=change,
        noise_percent=100 * (old.spread_ms + new.spread_ms) / old.median_ms,
        memory_change_mib=new.peak_memory_mib - old.peak_memory_mib,
        regression=verdict == "unverified" or (verdict == "slower" and change > bound),
    )


def _find_flips(before: dict[tuple[str, str], BenchResult], after: dict[tuple[str, str], BenchResult]) -> Iterator[str]:
    shared = [place for place in before if place in after]
    for one, other in combinations(shared, 2):
        if one[0] != other[0]:
            continue
        apart = is_apart(before[one], before[other]) and is_apart(after[one], after[other])
        was_first = before[one].median_ms < before[other].median_ms
        if apart and was_first != (after[one].median_ms < after[other].median_ms):
            first, second = (one[1], other[1]) if was_first else (other[1], one[1])
            yield f"{one[0]}: {first} was faster than {second}, and is slower now"


def _find_notes(old: BenchReport, new: BenchReport) -> Iterator[str]:
    if old.model_sha256 != new.model_sha256:
        yield f"the models differ: {old.model} and {new.model}"
    if old.schema_version != new.schema_version and any(one.device != "cpu" for one in new.results):
        yield (
            f"WARNING: on a GPU reports of version {old.schema_version} and {new.schema_version} are measured in "
            "different ways (turns, length, memory, copies)"
        )
    for name in dict.fromkeys([*old.versions, *new.versions]):
        before, after = (report.versions.get(name, "not installed") for report in (old, new))
        if before != after:
            yield f"{name}: {before}, then {after}"
    for when, report in (("old", old), ("new", new)):
        busiest = max((run.others_load or 0 for run in report.runs), default=0)
        if busiest > BUSY_PROCESSORS:
            yield f"WARNING: other processes kept {busiest:.1f} processors busy during the {when} report"
