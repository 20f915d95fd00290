"""Three verdicts from what was measured and found: verified, incomplete, failed. docs/certificate.md has the rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sr_deploy.backends import Precision
from sr_deploy.backends.registry import find_backend
from sr_deploy.bundle.acceptance import counts_here
from sr_deploy.bundle.certificate import Acceptance, Certificate, CertificateEntry, Check, NotRun, Place
from sr_deploy.bundle.records import EngineRecord, FileRecord, GraphRecord
from sr_deploy.bundle.shortfall import describe_failure, describe_shortfall
from sr_deploy.bundle.thresholds import Looser

Verdict = Literal["verified", "incomplete", "failed"]
_NAMED = 3


@dataclass(frozen=True)
class Failure:
    """Something that fell short, by the name that `--accept` takes."""

    name: str
    """As in `model.fp16.onnx on onnxruntime:fp16` or `model.fp16.onnx (weights)`; another machine stands behind it."""
    file: str
    """The file that it is about, relative to the bundle."""
    sha256: str | None
    kind: str
    """The check's kind; `run` for a measurement."""
    lines: tuple[str, ...]
    """What is wrong, a line each."""
    when: str
    """When it was found; UTC, ISO 8601."""
    where: str = ""
    """Of a measurement: the input that fell short by most, the place, and whether a picture would show it."""
    accepted: Acceptance | None = None
    """Who accepted it; None: nobody on this machine."""
    foreign: Acceptance | None = None
    """Who accepted it elsewhere, which does not count here."""


@dataclass(frozen=True)
class Judgment:
    """What a certificate comes to."""

    failures: tuple[Failure, ...]
    """What fell short and was not accepted."""
    accepted: tuple[Failure, ...]
    """What fell short and was accepted."""
    ran: tuple[FileRecord, ...]
    """Graphs and engines that a backend other than PyTorch ran in their own precision."""
    missing: tuple[GraphRecord, ...]
    """Graphs that had to be run, and that none ran."""
    aside: tuple[GraphRecord, ...]
    """Graphs that nobody asked for."""
    engines: tuple[EngineRecord, ...]
    """Engines that did not run."""
    not_run: tuple[NotRun, ...]
    """Backends that are absent and engines without their GPU, with the reasons."""
    unchecked: tuple[Check, ...]
    """Checks that could not be done."""
    looser: tuple[Looser, ...]
    """Thresholds that ask for less than the defaults."""
    asked: tuple[Precision, ...] | None = None
    """Precisions that had to be run; None: all."""

    @property
    def verdict(self) -> Verdict:
        """The worst thing that is true."""
        if self.failures:
            return "failed"
        return "incomplete" if self.missing else "verified"

    def describe(self) -> str:
        """The verdict in one line, with what it does not cover."""
        if self.failures:
            said = f"NOT verified: {', '.join(failure.name for failure in self.failures)}"
            return "; ".join([said, *self._list_accepted()])
        if self.missing:
            said = f"incomplete: no backend ran {', '.join(graph.file for graph in self.missing)}"
            return "; ".join([said, *self._list_limits()])
        limits = self._list_limits()
        return "; ".join([f"verified: {self._covered()}", *limits]) if limits else "verified"

    def _covered(self) -> str:
        engines = sum(record.file.endswith(".engine") for record in self.ran)
        parts = ["graphs" if not self.aside else ", ".join(r.file for r in self.ran if not r.file.endswith(".engine"))]
        parts += [_count(engines, "engine")] if engines else []
        return ", ".join(part for part in parts if part) or "PyTorch's weights"

    def _list_limits(self) -> list[str]:
        """What keeps the verdict from being the whole truth."""
        backends = [one.what for one in self.not_run if one.file is None]
        unrun = [graph.file for graph in self.aside]
        unrun += [_count(len(self.engines), "engine")] if self.engines else []
        unrun += backends[:_NAMED] + ([f"{len(backends) - _NAMED} more"] if len(backends) > _NAMED else [])
        limits = [f"not run: {', '.join(unrun)}"] if unrun else []
        if self.unchecked:
            limits.append(f"not checked: {', '.join(f'{one.file} ({one.kind})' for one in self.unchecked)}")
        if self.looser:
            limits.append("looser than the defaults: " + "; ".join(map(str, self.looser)))
        return limits + self._list_accepted()

    def _list_accepted(self) -> list[str]:
        return [f"accepted: {', '.join(failure.name for failure in self.accepted)}"] if self.accepted else []


def judge(
    certificate: Certificate,
    *,
    graphs: Sequence[GraphRecord],
    engines: Sequence[EngineRecord] = (),
    entries: Iterable[CertificateEntry] | None = None,
    asked: Collection[Precision] | None = None,
    here: Collection[Place] = (),
    not_run: Sequence[NotRun] = (),
    looser: Sequence[Looser] = (),
) -> Judgment:
    """What a certificate comes to.

    Args:
        certificate: every finding that stands.
        graphs: of the bundle, or the one ONNX file.
        engines: likewise.
        entries: what counts as having run; None: all of the certificate.
        asked: precisions that had to be run; None: all.
        here: this machine's processor and GPUs; of entries of others the verdict says whose they are.
        not_run: what could not be run.
        looser: thresholds that ask for less than the defaults.
    """
    counted = certificate.entries if entries is None else tuple(entries)
    ran = _list_ran(counted, graphs, engines)
    known = {(record.file, record.sha256) for record in ran}
    left = [graph for graph in graphs if (graph.file, graph.sha256) not in known]
    # A choice of precisions narrows what has to run; PyTorch alone runs nothing of what is deployed.
    alone = all(_runs_weights(entry) for entry in counted)
    due = [graph for graph in left if asked is None or graph.precision in asked or alone]
    failures = _list_failures(certificate, here)
    return Judgment(
        failures=tuple(one for one in failures if one.accepted is None),
        accepted=tuple(one for one in failures if one.accepted is not None),
        ran=tuple(ran),
        missing=tuple(due),
        aside=tuple(graph for graph in left if graph not in due),
        engines=tuple(one for one in engines if (one.engine.file, one.engine.sha256) not in known),
        not_run=tuple(not_run),
        unchecked=tuple(check for check in certificate.checks if check.not_checked and check.passed),
        looser=tuple(looser),
        asked=None if asked is None else tuple(sorted(asked)),
    )


def _list_ran(
    entries: Iterable[CertificateEntry], graphs: Sequence[GraphRecord], engines: Sequence[EngineRecord]
) -> list[FileRecord]:
    """Graphs and engines, as they are now, that a backend other than PyTorch ran in their own precision."""
    known = {(graph.file, graph.sha256): graph.precision for graph in graphs}
    known |= {(record.engine.file, record.engine.sha256): record.precision for record in engines}
    ran = [
        entry.artifact
        for entry in entries
        if known.get((entry.artifact.file, entry.artifact.sha256)) == entry.precision and not _runs_weights(entry)
    ]
    return list(dict.fromkeys(ran))


def _runs_weights(entry: CertificateEntry) -> bool:
    backend = find_backend(entry.backend.partition(":")[0])
    return backend is not None and backend.artifact == "weights"


def name_entry(entry: CertificateEntry, here: Collection[Place]) -> str:
    """As in `model.fp16.onnx on onnxruntime:fp16`; with its machine behind it where that is another one."""
    name = f"{entry.artifact.file} on {entry.backend}"
    return name if entry.place in here else f"{name} ({entry.place_title})"


def name_check(check: Check) -> str:
    """As in `model.fp16.onnx (weights)`."""
    return f"{check.file} ({check.kind})"


def _list_failures(certificate: Certificate, here: Collection[Place]) -> list[Failure]:
    failed = [entry for entry in certificate.entries if not entry.sound]
    found = {
        name_entry(entry, here): Failure(
            name=name_entry(entry, here),
            file=entry.artifact.file,
            sha256=entry.artifact.sha256,
            kind="run",
            lines=(describe_shortfall(entry),),
            when=entry.measured_at,
            where=describe_failure(entry),
        )
        for entry in failed
    }
    for check in certificate.checks:
        if check.findings:
            name = name_check(check)
            before = found[name].lines if name in found else ()
            lines = tuple(dict.fromkeys((*before, *check.findings)))
            found[name] = Failure(name, check.file, check.sha256, check.kind, lines, check.checked_at)
    return [_with_acceptance(one, certificate) for one in found.values()]


def _with_acceptance(failure: Failure, certificate: Certificate) -> Failure:
    for one in reversed(certificate.accepted):
        if (one.name, one.sha256) == (failure.name, failure.sha256) and set(failure.lines) <= set(one.what):
            return replace(failure, accepted=one) if counts_here(one) else replace(failure, foreign=one)
    return failure


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
