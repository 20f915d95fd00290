"""The certificate: every artifact measured, every file looked into, every tenth of a dB accounted for.

`sr_deploy.verify_model`. What `verify` measures and `upscale` tiles comes together here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.registry import get_backend
from sr_deploy.bundle import (
    Bundle,
    Certificate,
    CertificateEntry,
    Check,
    EngineOptions,
    ErrorBudget,
    NotRun,
    Profile,
    Thresholds,
    open_bundle,
    utc_now,
)
from sr_deploy.bundle.engine_folder import EngineFolder, engines_of_graph
from sr_deploy.bundle.store import PAGE_NAME, blaming_bundle
from sr_deploy.bundle.trust import BUILT_HERE, EngineTrust
from sr_deploy.bundle.verdict import Judgment, Verdict
from sr_deploy.engine.bundle import BuildResult
from sr_deploy.engine.bundle import build_engines as build_in_folder
from sr_deploy.errors import GraphError, InputError
from sr_deploy.files import require_file
from sr_deploy.model import Model, open_model
from sr_deploy.progress import OnProgress
from sr_deploy.shipped import is_shipped
from sr_deploy.upscale.memory import SHARE as MEMORY_SHARE
from sr_deploy.upscale.memory import estimate_bytes_per_pixel, free_memory
from sr_deploy.verification.candidates import list_not_run
from sr_deploy.verification.comparison import verify_backends
from sr_deploy.verification.error_budget import measure_error_budgets
from sr_deploy.verification.file_checks import check_files
from sr_deploy.verification.judging import Found, accept_findings, judge_bundle, judge_found, record_verdict
from sr_deploy.verification.page.content import describe_page
from sr_deploy.verification.page.render import write_page
from sr_deploy.verification.standing import distrust
from sr_deploy.verification.worst import Crop

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verification:
    """What `verify_model` found."""

    model: Model
    found: Found
    """What this run measured and checked."""
    certificate: Certificate
    """That, and what stood in the bundle's certificate besides: measurements of other machines, findings that were not
    found to be gone."""
    judgment: Judgment
    """What the certificate comes to; only what ran now counts as having run."""
    crops: tuple[Crop, ...] = ()
    """The worst places, cut out."""
    written: tuple[Path, ...] = ()
    """A bundle's certificate.json and certificate.html; empty for what is in no bundle, and for what ships with
    sr-deploy: the installed package stays as it is."""

    @property
    def entries(self) -> tuple[CertificateEntry, ...]:
        """One for each artifact and backend that ran."""
        return self.found.entries

    @property
    def checks(self) -> tuple[Check, ...]:
        """What was found in the files of a bundle."""
        return self.found.checks

    @property
    def error_budgets(self) -> tuple[ErrorBudget, ...]:
        """One for each chain that was measured."""
        return self.found.error_budgets

    @property
    def not_run(self) -> tuple[NotRun, ...]:
        """What this machine could not run, and why."""
        return self.found.not_run

    @property
    def elsewhere(self) -> tuple[CertificateEntry, ...]:
        """What the certificate says besides: measured on other machines, or here before and not again."""
        return tuple(entry for entry in self.certificate.entries if entry not in self.found.entries)

    @property
    def failures(self) -> tuple[str, ...]:
        """What fell short and nobody accepted, as in `model.fp16.onnx on onnxruntime:fp16`; empty if nothing did."""
        return tuple(failure.name for failure in self.judgment.failures)

    @property
    def verdict(self) -> Verdict:
        """`verified`, `incomplete` (a graph that no backend ran) or `failed`."""
        return self.judgment.verdict

    @property
    def passed(self) -> bool:
        """Whether the verdict is `verified`: every graph ran and met its thresholds, and no file is wrong."""
        return self.verdict == "verified"

    def write_html(self, path: Path) -> None:
        """Write the certificate as one HTML page that needs no other file and no network.

        Raises:
            OutputError: it cannot be written.
        """
        content = describe_page(self.model, self.judgment, self.certificate, entries=self.entries, crops=self.crops)
        write_page(content, path)


def verify_model(
    model: Model | Path | str,
    *,
    thresholds: Mapping[Precision, Thresholds] | None = None,
    choices: Sequence[BackendChoice] | None = None,
    deep: bool = False,
    source: Path | str | None = None,
    accept: Sequence[str] = (),
    signed: Check | None = None,
) -> Verification:
    """Verify a model: run everything of it that this machine can run, and look into its files.

    Every artifact is compared with PyTorch in float64, or for a graph without weights with ONNX Runtime in FP32, on a
    grid of shapes and contents. Of a bundle the weights of each graph are held against those of the FP32 one,
    the precision of every layer against the manifest, engines against their records and graphs, and the error budget by
    stage says which one loses how much. The result goes into its `certificate.json` and `certificate.html`, whether it
    passed or not; a bundle that ships with sr-deploy stays as it is.

    Args:
        model: a bundle, an ONNX file or a checkpoint, or its path.
        thresholds: what to meet, by precision; what is left out is what the bundle asks, or the default. What is
            measured against others than the bundle's does not go into its certificate.
        choices: what to run; None: everything that runs here. With choices there is no error budget, and the verdict is
            of the graphs of their precisions.
        deep: hold the FP32 graph against what PyTorch's exporter makes of the network too; takes up to a minute.
        source: the checkpoint or run that the bundle says it was made of, to hold it against.
        accept: names of findings, as the verdict has them, that this user accepts from now on.
        signed: what `bundle.signature.check_signature` said of the bundle, for the certificate.

    Raises:
        LockedError: another process writes into the bundle.
        BackendError: a choice does not run here, or the reference failed. A backend that fails on an input fails the
            verification, with an infinite error.
        BundleError: a file of the bundle is missing, or is not what its recorded hash says.
        InputError: nothing to compare, or with; no finding has a name that was to be accepted.
        VerificationError: the reference itself gives no finite numbers.
    """
    if not isinstance(model, Model):
        model = open_model(Path(model))
    bundle = model.bundle if model.kind == "bundle" else None
    if bundle is None and (source is not None or accept):
        raise InputError(f"--source and --accept are of bundles, and {model.path} is a {model.kind}; give a bundle")
    if bundle is not None and accept and (is_shipped(bundle.path) or thresholds):
        raise InputError(f"nothing of {model.path} is written down here, so nothing can be accepted; copy it first")
    writes = bundle is not None and not is_shipped(bundle.path) and not thresholds
    with bundle.writing() if bundle is not None and writes else nullcontext():
        standing, checks = check_files(model, deep=deep, source=source, signed=signed)
        error_budgets: tuple[ErrorBudget, ...] = ()
        with blaming_bundle(bundle):
            verified = verify_backends(
                model,
                thresholds=thresholds,
                choices=choices,
                standing=standing,
                max_pixels=_count_max_pixels(model),
            )
            if bundle is not None and verified.invented:
                standing, checks[0] = distrust(bundle, checks[0], verified.invented)
            if choices is None and model.precisions:
                _LOG.info("error budget by stage")
                error_budgets = tuple(measure_error_budgets(model))
        if bundle is not None:
            checks += _check_drops(bundle, error_budgets)
        found = Found(
            verified.entries, tuple(checks), error_budgets, (*list_not_run(model, choices), *verified.not_run)
        )
        certificate = found.added_to(standing)
        of_files = (one for one in choices or () if get_backend(one.backend).artifact != "weights")
        asked = None if choices is None else {choice.precision for choice in of_files}
        judgment = judge_found(model, certificate, found, asked=asked, thresholds=thresholds)
        if accept:
            certificate = accept_findings(certificate, judgment, accept)
            judgment = judge_found(model, certificate, found, asked=asked, thresholds=thresholds)
        verification = Verification(model, found, certificate, judgment, verified.crops)
        return _write(bundle, verification, certificate) if bundle is not None and writes else verification


def _count_max_pixels(model: Model) -> float | None:
    """Input pixels, batch included, whose feature maps the reference and one backend can hold on this machine's CPU."""
    try:
        per_pixel = estimate_bytes_per_pixel(model)
    except GraphError:
        return None  # then the cost is unknown too, and no large shape is run
    free = free_memory("cpu")
    return None if not per_pixel or free is None else MEMORY_SHARE * free / per_pixel


def _check_drops(bundle: Bundle, error_budgets: Sequence[ErrorBudget]) -> list[Check]:
    """What graphs lose against ground truth, where somebody said how much they may."""
    checks = []
    for precision, search in bundle.manifest.searches.items():
        graph = bundle.manifest.graph(precision)
        if graph is not None:
            said = search.describe_loss()
            findings = () if search.passed else (f"kept with --force: {said}",)
            checks.append(_make_drop(graph.file, graph.sha256, f"when it was made: {said}", findings))
    for budget in error_budgets:
        allowed = bundle.manifest.thresholds_for(budget.precision).max_drop_db
        if allowed is not None:
            said = f"{budget.drop_db:.3f} dB lost on {budget.inputs}, {allowed:.3f} allowed"
            findings = (said,) if budget.drop_db > allowed else ()
            checks.append(_make_drop(budget.file, budget.sha256, f"in the error budget by stage: {said}", findings))
    return checks


def _make_drop(file: str, sha256: str, what: str, findings: tuple[str, ...]) -> Check:
    return Check(
        kind="drop",
        file=file,
        sha256=sha256,
        what=f"against the photographs themselves, {what}",
        findings=findings,
        checked_at=utc_now(),
    )


def _write(bundle: Bundle, verification: Verification, certificate: Certificate) -> Verification:
    path = bundle.write_certificate(record_verdict(certificate, verification.judgment))
    verification.write_html(bundle.path / PAGE_NAME)
    return replace(verification, written=(path, bundle.path / PAGE_NAME))


def record_engines(bundle: Bundle) -> Judgment:
    """Let `certificate.json` and its page name engines that were built and that nothing has run yet.

    A certificate that does not hold is left for `verify`, which says so. The page has no crops then: those are of a
    verification's own outputs.

    Returns:
        The verdict as of now.

    Raises:
        BundleError: an engine is damaged.
        OutputError: the bundle cannot be written.
    """
    certificate, judgment, problem = judge_bundle(bundle)
    if not problem and not is_shipped(bundle.path):
        bundle.write_certificate(record_verdict(certificate, judgment))
        model = open_model(bundle.path)
        write_page(describe_page(model, judgment, certificate), bundle.path / PAGE_NAME)
    return judgment


def build_engines(
    bundle: Bundle | Path | str,
    backend: str | None = None,
    *,
    profiles: Sequence[Profile] = (),
    compute_capabilities: Sequence[str] = (),
    options: EngineOptions | None = None,
    trust: EngineTrust = BUILT_HERE,
    on_progress: OnProgress | None = None,
) -> BuildResult:
    """Build engines as `engine.bundle.build_engines` does, and let a bundle's certificate and page name them.

    Nothing has run a new engine yet: the certificate says so until `verify` does. The arguments and what is raised are
    those of that, and LockedError where another process writes there.
    """
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    is_graph = not isinstance(bundle, Bundle) and path.suffix == ".onnx"
    if is_graph:
        require_file(path, "an ONNX graph")
    else:
        open_bundle(path)  # says what is wrong with it before anything is written there
    with (engines_of_graph(path) if is_graph else EngineFolder(path)).writing():
        result = build_in_folder(
            path,
            backend,
            profiles=profiles,
            compute_capabilities=compute_capabilities,
            options=options,
            trust=trust,
            on_progress=on_progress,
        )
        if is_graph:
            return result
        opened = open_bundle(path)
        changed = result.built or result.removed
        return replace(result, judgment=record_engines(opened) if changed else judge_bundle(opened)[1])
