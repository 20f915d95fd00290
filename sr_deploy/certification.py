"""The certificate: every artefact measured, every file looked into, every tenth of a dB accounted for.

`sr_deploy.verify`. What `verify` measures and `upscale` tiles comes together here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.bundle import Bundle, Certificate, CertificateEntry, Check, FileRecord, Ledger, Thresholds, utc_now
from sr_deploy.bundle.store import PAGE_NAME
from sr_deploy.drift import Tell, measure_ledgers
from sr_deploy.errors import BundleError
from sr_deploy.model import Model, open_model
from sr_deploy.shipped import is_shipped
from sr_deploy.verify.audit import audit_graph, load_reference
from sr_deploy.verify.deep import audit_fp32_graph, audit_fp32_weights
from sr_deploy.verify.integrity import check_certificate, check_engines, check_graph_precision
from sr_deploy.verify.model import NotRun, list_not_run, verify_backends
from sr_deploy.verify.page.render import PageContent, write_page
from sr_deploy.verify.worst import Crop


@dataclass(frozen=True)
class Verification:
    """What `verify_model` found."""

    model: Model
    """What was verified."""
    entries: tuple[CertificateEntry, ...]
    """One for each artefact and backend that ran."""
    checks: tuple[Check, ...] = ()
    """What was found in the files of a bundle."""
    ledgers: tuple[Ledger, ...] = ()
    """One for each chain that was measured."""
    crops: tuple[Crop, ...] = ()
    """The worst places, cut out."""
    not_run: tuple[NotRun, ...] = ()
    """What this machine could not run, and why."""
    written: tuple[Path, ...] = ()
    """A bundle's certificate.json and certificate.html; empty for what is in no bundle, and for what ships with
    sr-deploy: the installed package stays as it is."""
    failures: tuple[str, ...] = field(init=False)
    """What fell short, as in `model.fp16.onnx on onnxruntime:fp16`; empty if all is well."""

    def __post_init__(self) -> None:
        failures = [f"{entry.artefact.file} on {entry.backend}" for entry in self.entries if not entry.passed]
        failures += [f"{check.file} ({check.kind})" for check in self.checks if not check.passed]
        object.__setattr__(self, "failures", tuple(failures))

    @property
    def passed(self) -> bool:
        """Whether everything met its thresholds and nothing is wrong with any file."""
        return not self.failures

    def write_html(self, path: Path) -> None:
        """Write the certificate as one HTML page that needs no other file and no network.

        Raises:
            OutputError: it cannot be written.
        """
        model = self.model
        content = PageContent(
            title=model.path.resolve().name,
            network=model.arch.title() if model.arch is not None else "",
            failures=self.failures,
            artefacts=_list_artefacts(self),
            entries=self.entries,
            checks=self.checks,
            ledgers=self.ledgers,
            crops=self.crops,
            not_run=self.not_run,
        )
        write_page(content, path)


def verify_model(
    model: Model | Path | str,
    *,
    thresholds: Mapping[Precision, Thresholds] | None = None,
    choices: Sequence[BackendChoice] | None = None,
    deep: bool = False,
    on_stage: Tell | None = None,
) -> Verification:
    """Verify a model: run everything of it that this machine can run, and look into its files.

    Every artefact is compared with FP32 PyTorch (TF32 off), or for a graph without weights with ONNX Runtime in FP32,
    on a lattice of shapes and contents. Of a bundle the weights of each graph are held against those of the FP32 one,
    the precision of every layer against the manifest, engines against their records and graphs, and the drift ledger
    says which stage loses how much. The result goes into its `certificate.json` and `certificate.html`, whether it
    passed or not; a bundle that ships with sr-deploy stays as it is.

    Args:
        model: a bundle, an ONNX file or a checkpoint, or its path.
        thresholds: what to meet, by precision; what is left out is what the bundle asks, or the default.
        choices: what to run; None: everything that runs here. With choices there is no ledger.
        deep: export the network again and hold the FP32 graph's numbers against that; takes a while.
        on_stage: told what is being done, one line each.

    Raises:
        BackendError: a choice does not run here, or the reference failed. A backend that fails on an input fails the
            verification, with an infinite error.
        BundleError: a file of the bundle is missing, or is not what its recorded hash says.
        InputError: nothing to compare, or with.
        VerificationError: the reference itself gives no finite numbers.
    """
    if not isinstance(model, Model):
        model = open_model(Path(model))
    tell = on_stage or (lambda _: None)
    bundle = model.bundle if model.kind == "bundle" else None
    checks = tuple(_check_files(model, bundle, tell, deep=deep)) if bundle is not None else ()
    checks += tuple(check_engines(model))
    verified = verify_backends(model, thresholds=thresholds, choices=choices, on_stage=tell)
    ledgers: tuple[Ledger, ...] = ()
    if choices is None and model.precisions:
        tell("drift ledger")
        ledgers = tuple(measure_ledgers(model, tell))
    if bundle is not None:
        checks += tuple(_check_drops(bundle, ledgers))
    verification = Verification(
        model=model,
        entries=verified.entries,
        checks=checks,
        ledgers=ledgers,
        crops=verified.crops,
        not_run=tuple(list_not_run(model, choices)),
    )
    if bundle is None or is_shipped(bundle.path):
        return verification
    certificate, page = _write_certificate(bundle, verification), bundle.path / PAGE_NAME
    verification.write_html(page)
    return replace(verification, written=(certificate, page))


def _check_files(model: Model, bundle: Bundle, tell: Tell, *, deep: bool) -> list[Check]:
    tell("hashes, weights and precision of the files")
    checks = [check_certificate(bundle)]
    if "fp32" in bundle.precisions:
        checks.append(audit_fp32_graph(model, bundle) if deep else audit_fp32_weights(model, bundle))
    for graph in bundle.manifest.graphs:
        checks.append(check_graph_precision(bundle, graph))
        if graph.precision != "fp32" and "fp32" in bundle.precisions:
            reference = load_reference(bundle, graph.precision)
            checks.append(audit_graph(bundle.path / graph.file, reference, bundle.graph("fp32").name))
    return checks


def _check_drops(bundle: Bundle, ledgers: Sequence[Ledger]) -> list[Check]:
    """What graphs lose against ground truth, where somebody said how much they may."""
    int8, graph = bundle.manifest.int8, bundle.manifest.graph("int8")
    checks = []
    if int8 is not None and graph is not None:
        said = (
            f"{int8.drop_db:.3f} dB lost on held-out photographs, {int8.max_drop_db:.3f} allowed; worst sample off by "
            f"{int8.max_abs:.3f}, {int8.max_pixel_error:.3f} allowed"
        )
        findings = () if int8.passed else (f"kept with --force: {said}",)
        checks.append(_make_drop(graph.file, graph.sha256, f"when it was made: {said}", findings))
    for ledger in ledgers:
        allowed = bundle.manifest.thresholds_for(ledger.precision).max_drop_db
        if allowed is not None:
            said = f"{ledger.drop_db:.3f} dB lost on {ledger.inputs}, {allowed:.3f} allowed"
            findings = (said,) if ledger.drop_db > allowed else ()
            checks.append(_make_drop(ledger.file, ledger.sha256, f"in the drift ledger: {said}", findings))
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


def _write_certificate(bundle: Bundle, verification: Verification) -> Path:
    try:
        certificate = bundle.certificate()
    except BundleError:  # which is among the checks
        certificate = Certificate()
    for entry in verification.entries:
        certificate = certificate.with_entry(entry)
    for ledger in verification.ledgers:
        certificate = certificate.with_ledger(ledger)
    return bundle.write_certificate(certificate.with_checks(verification.checks))


def _list_artefacts(verification: Verification) -> list[FileRecord]:
    bundle = verification.model.bundle
    if bundle is None:
        return list({entry.artefact.file: entry.artefact for entry in verification.entries}.values())
    manifest = bundle.manifest
    records = [manifest.reference, *manifest.graphs, *(record.engine for record in bundle.engines())]
    if manifest.int8 is not None:
        records += [manifest.int8.report, *((manifest.int8.picture,) if manifest.int8.picture else ())]
    return [FileRecord(file=record.file, sha256=record.sha256) for record in records]
