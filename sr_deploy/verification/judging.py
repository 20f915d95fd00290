"""From measurements and checks to a verdict, and from a verdict to `certificate.json`. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.backends import Precision
from sr_deploy.bundle import (
    Bundle,
    Certificate,
    CertificateEntry,
    Check,
    ErrorBudget,
    FileRecord,
    GraphRecord,
    LastVerification,
    NotRun,
    Thresholds,
    utc_now,
)
from sr_deploy.bundle.acceptance import accept_finding
from sr_deploy.bundle.certificate import Place
from sr_deploy.bundle.thresholds import Looser, list_looser
from sr_deploy.bundle.verdict import Judgment, judge
from sr_deploy.errors import BundleError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model
from sr_deploy.verification.engines import find_engines
from sr_deploy.verification.standing import check_certificate

_YET = "nothing has run it yet; on a machine with its GPU, run: sr-deploy verify"


@dataclass(frozen=True)
class Found:
    """What one verification found."""

    entries: tuple[CertificateEntry, ...]
    """One for each artifact and backend that ran."""
    checks: tuple[Check, ...]
    error_budgets: tuple[ErrorBudget, ...]
    """One for each chain that was measured."""
    not_run: tuple[NotRun, ...]
    """What this machine could not run, and why."""

    def added_to(self, standing: Certificate) -> Certificate:
        """A certificate that says this too; what it found to be right takes the place of what was wrong."""
        certificate = standing.with_checks(self.checks)
        for entry in self.entries:
            certificate = certificate.with_entry(entry)
        for budget in self.error_budgets:
            certificate = certificate.with_error_budget(budget)
        return certificate


def list_output_keys() -> tuple[Place, ...]:
    """This machine's processor and its GPUs, as entries have them."""
    machine = describe_machine()
    return (machine.cpu, machine.features), *((gpu.name, ()) for gpu in visible_gpus())


def judge_found(
    model: Model,
    certificate: Certificate,
    found: Found,
    *,
    asked: Collection[Precision] | None = None,
    thresholds: Mapping[Precision, Thresholds] | None = None,
) -> Judgment:
    """The verdict of a verification.

    Args:
        model: what was verified.
        certificate: every finding that stands, with what was found now.
        found: what was found now; nothing else counts as having run.
        asked: precisions that had to be run; None: all.
        thresholds: by precision, what the caller asked in place of the model's.
    """
    folder = find_engines(model)
    return judge(
        certificate,
        graphs=list_graphs(model),
        engines=folder.engines() if folder is not None else (),
        entries=found.entries,
        asked=asked,
        here=list_output_keys(),
        not_run=found.not_run,
        looser=_list_looser(model, thresholds or {}),
    )


def judge_stored(bundle: Bundle, certificate: Certificate) -> Judgment:
    """The verdict of what is written down: of the last verification, on whichever machine, and what was built since."""
    last, graphs, engines = certificate.last, bundle.manifest.graphs, bundle.engines()
    ran = None if last is None else {(one.file, one.sha256) for one in last.ran}
    counted = [one for one in certificate.entries if ran is None or (one.artifact.file, one.artifact.sha256) in ran]
    done = {(one.artifact.file, one.artifact.sha256) for one in counted}
    not_run = [] if last is None else [one for one in last.not_run if one.file is None]
    not_run += [
        NotRun(what=f"{record.backend}:{record.precision} {record.engine.file}", file=record.engine.file, reason=_YET)
        for record in engines
        if (record.engine.file, record.engine.sha256) not in done
    ]
    return judge(
        certificate,
        graphs=graphs,
        engines=engines,
        entries=counted,
        asked=None if last is None else last.asked,
        here=list_output_keys(),
        not_run=not_run,
        looser=bundle.manifest.list_looser(),
    )


def judge_bundle(bundle: Bundle) -> tuple[Certificate, Judgment, str]:
    """A bundle's certificate, what it comes to, and why it does not hold; it says nothing but that then.

    Returns:
        The third is empty where it holds.
    """
    problem = ""
    try:
        certificate = bundle.certificate()
    except BundleError as error:
        problem = str(error)
        certificate = Certificate(checks=(check_certificate((problem,)),))
    return certificate, judge_stored(bundle, certificate), problem


def accept_findings(certificate: Certificate, judgment: Judgment, names: Sequence[str]) -> Certificate:
    """A copy in which this user accepts findings by their names, or by a file that only one of them is about.

    Raises:
        InputError: no finding is called so, or several are about that file; nothing is accepted then.
        OutputError: the acceptance cannot be noted.
    """
    open_ones = (*judgment.failures, *judgment.accepted)
    chosen = []
    for name in dict.fromkeys(names):
        fitting = [one for one in open_ones if one.name == name] or [one for one in open_ones if one.file == name]
        if len(fitting) != 1:
            known = ", ".join(repr(one.name) for one in open_ones) or "there is none"
            problem = "is no finding here" if not fitting else "is what several findings are about"
            raise InputError(f"--accept {name!r}: {problem}; findings: {known}")
        chosen += fitting
    accepted = [accept_finding(one.name, one.sha256, one.lines) for one in chosen]
    replaced = {(one.name, one.sha256) for one in accepted}
    kept = [one for one in certificate.accepted if (one.name, one.sha256) not in replaced]
    return certificate.model_copy(update={"accepted": (*kept, *accepted)})


def record_verdict(certificate: Certificate, judgment: Judgment) -> Certificate:
    """A copy that says what it came to, where and when."""
    last = LastVerification(
        verdict=judgment.verdict,
        at=utc_now(),
        machine=describe_machine().cpu,
        asked=judgment.asked,
        ran=judgment.ran,
        not_run=judgment.not_run,
    )
    return certificate.model_copy(update={"last": last})


def _list_looser(model: Model, thresholds: Mapping[Precision, Thresholds]) -> Sequence[Looser]:
    if model.bundle is None or thresholds:
        stated = model.bundle.manifest.thresholds if model.bundle is not None else {}
        return (*list_looser({**stated, **thresholds}, model.precisions),)
    return model.bundle.manifest.list_looser()


def list_graphs(model: Model) -> Sequence[GraphRecord]:
    """Graphs of a bundle, or the one that an ONNX file is; none of a checkpoint."""
    if model.bundle is not None:
        return model.bundle.manifest.graphs
    if model.graph_info is None:
        return ()
    file = FileRecord(file=model.path.name, sha256=sha256_of(model.path))
    return (GraphRecord(**file.model_dump(), precision=model.graph_info.precision),)
