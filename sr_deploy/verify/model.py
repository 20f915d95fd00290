"""Run each graph of a model on every backend of its precision and compare with FP32 PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import TENSORRT_BACKENDS, Backend, BackendChoice, Precision
from sr_deploy.bundle import Bundle, Certificate, CertificateEntry, FileRecord, Measurement, Shape, Thresholds, utc_now
from sr_deploy.errors import BackendError, BundleError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.graph.ends import Dtype
from sr_deploy.measure.compare import Comparison
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model, open_model
from sr_deploy.runners import open_runner, why_not_runnable
from sr_deploy.runners.ends import compare_at_ends, rounding_of, snap_input
from sr_deploy.runners.inputs import photograph_batch
from sr_deploy.runners.parity import Reference, describe_reference, open_reference
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.trt import visible_gpus
from sr_deploy.verify.lattice import CONTENT, lattice_for

__all__ = ["NotRun", "list_not_run", "verify_model", "worst_entry"]

_GRAPH_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class NotRun:
    """Something of the model that this machine could not verify."""

    what: str
    """Backend and precision, with the engine's file if it is one."""
    reason: str
    """Why not, and what would."""


def verify_model(
    model: Model | Path | str,
    *,
    thresholds: Mapping[Precision, Thresholds] | None = None,
    choices: Sequence[BackendChoice] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> list[CertificateEntry]:
    """Compare every artefact with the reference on photographs of several shapes.

    The reference is FP32 PyTorch (TF32 off), or for a graph without weights ONNX Runtime with all optimisations off.
    An FP16 graph is accompanied by PyTorch's true half, because ONNX Runtime computes FP16 convolutions in FP32 on a
    CPU: the FP16 figure is the worse of the two (`worst_entry`). Where graphs have ends of other types than float32,
    all are shown what those ends can hold, and the thresholds allow for their rounding. For a bundle the result is
    added to its `certificate.json`, whether it passed or not.

    Args:
        model: a bundle, an ONNX file or a checkpoint, or its path.
        thresholds: what to meet, by precision; what is left out is what the bundle asks, or the default.
        choices: what to run; None: everything of the model that this machine can run (`list_not_run` has the rest).
        on_stage: told what is being done, one line each.

    Returns:
        One entry for each artefact and backend, each bound to the artefact's hash. `passed` says how it went.

    Raises:
        BackendError: a choice does not run here, or the reference failed. A backend that fails on an input fails the
            verification, with an infinite error.
        InputError: nothing to compare, or with.
        VerificationError: the reference itself gives no finite numbers.
    """
    if not isinstance(model, Model):
        model = open_model(Path(model))
    reference = describe_reference(model)
    if choices is None:
        choices = [choice for choice in _candidates(model) if why_not_runnable(model, choice) is None]
    if not choices:
        raise InputError(
            f"nothing of {model.path} can be compared here: {'; '.join(one.reason for one in list_not_run(model))}"
        )
    tell = on_stage or (lambda _: None)
    tell(f"reference: {reference.title}")
    entries = []
    with open_reference(model) as oracle:
        outputs = _ReferenceOutputs(oracle, reference, model.end_dtype)
        for choice in choices:
            tell(f"verify {choice}")
            limits = (thresholds or {}).get(choice.precision) or model.thresholds_for(choice.precision)
            entries.append(_verify_choice(model, choice, limits, outputs, tell))
    if model.bundle is not None:
        _add_to_certificate(model.bundle, entries, tell)
    return entries


def list_not_run(model: Model, choices: Sequence[BackendChoice] | None = None) -> list[NotRun]:
    """What of a model this machine cannot verify, and why: backends that are absent, engines without their GPU.

    Args:
        model: what to look at.
        choices: look at these only.
    """
    missing = []
    for choice in _candidates(model):
        if (choices is not None and choice not in choices) or choice.backend in TENSORRT_BACKENDS:
            continue
        reason = why_not_runnable(model, choice)
        if reason is not None:
            missing.append(NotRun(str(choice), reason))
    for record in model.bundle.engines() if model.bundle is not None else ():
        choice = BackendChoice(record.backend, record.precision)
        reason = why_not_runnable(model, choice)
        if reason is not None and (choices is None or choice in choices):
            missing.append(NotRun(f"{choice} {record.engine.file} ({record.target})", reason))
    return missing


def worst_entry(entries: Sequence[CertificateEntry], precision: Precision) -> CertificateEntry | None:
    """The figure of a precision: its entry with the lowest PSNR (None counts as equal, so best)."""
    of_precision = [entry for entry in entries if entry.precision == precision]
    if not of_precision:
        return None
    return min(of_precision, key=lambda entry: float("inf") if entry.worst_psnr_db is None else entry.worst_psnr_db)


class _ReferenceOutputs:
    """What the reference makes of each shape, computed once."""

    def __init__(self, oracle: Runner, reference: Reference, dtype: Dtype) -> None:
        self.reference = reference
        self.rounding = rounding_of(oracle.spec.dtype)
        self._oracle = oracle
        self._dtype = dtype
        self._known: dict[Shape, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def pair(self, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Input and the reference's output."""
        if shape not in self._known:
            spec = self._oracle.spec
            lr_NCHW = snap_input(photograph_batch(shape, spec.channels, spec.scale), self._dtype)
            self._known[shape] = lr_NCHW, self._oracle.infer(lr_NCHW)
        return self._known[shape]


def _candidates(model: Model) -> list[BackendChoice]:
    """What there is to verify, runnable or not."""
    precisions = model.precisions
    if not precisions:
        return [BackendChoice("torch", "fp16"), BackendChoice("torch", "bf16")] if model.has_weights else []
    found = []
    for precision in precisions:
        # OpenVINO's CPU plugin computes FP16 graphs in FP32: it would say nothing about them.
        backends = ("onnxruntime",) if precision == "fp16" else _GRAPH_BACKENDS
        found += [BackendChoice(backend, precision) for backend in backends]
        if precision == "fp16" and model.has_weights:
            found.append(BackendChoice("torch", "fp16"))
    engines = model.bundle.engines() if model.bundle is not None else ()
    found += [BackendChoice(record.backend, record.precision) for record in engines]
    return list(dict.fromkeys(found))


def _verify_choice(
    model: Model,
    choice: BackendChoice,
    limits: Thresholds,
    outputs: _ReferenceOutputs,
    tell: Callable[[str], None],
) -> CertificateEntry:
    measurements = []
    passed = True
    with open_runner(model, choice) as runner:
        spec = runner.spec
        rounding = rounding_of(spec.dtype) + outputs.rounding
        limits = limits.widened(rounding)
        artefact = _find_artefact(model, spec)
        for shape in lattice_for(choice, spec.device, spec.profiles, spec.input_multiple):
            lr_NCHW, expected = outputs.pair(shape)
            try:
                comparison = compare_at_ends(runner.infer(lr_NCHW), expected, spec.dtype)
            except BackendError as error:  # loaded, but not able to run this input: as wrong as can be
                tell(f"{choice} failed: {error}")
                comparison = Comparison(max_abs=float("inf"), psnr_db=0.0, changed_8bit=1.0)
            passed = passed and limits.met_by(comparison)
            measurements.append(
                Measurement(
                    shape=str(shape),
                    content=CONTENT,
                    max_abs=comparison.max_abs,
                    psnr_db=comparison.psnr_db,
                    changed_8bit=comparison.changed_8bit,
                )
            )
    figures = [one.psnr_db for one in measurements if one.psnr_db is not None]
    return CertificateEntry(
        artefact=artefact,
        precision=choice.precision,
        backend=str(choice),
        backend_version=spec.version,
        rewrites=spec.rewrites,
        machine=_name_machine(spec),
        reference=outputs.reference.title,
        reference_sha256=outputs.reference.sha256,
        measured_at=utc_now(),
        thresholds=limits.as_dict() | ({"rounding": rounding} if rounding else {}),
        measurements=tuple(measurements),
        worst_max_abs=max(one.max_abs for one in measurements),
        worst_psnr_db=min(figures) if figures else None,
        passed=passed,
    )


def _find_artefact(model: Model, spec: RunnerSpec) -> FileRecord:
    """The file that was run, its hash taken from its bytes as they are now."""
    path = spec.artefact
    if path is None:
        raise InputError(f"{spec} does not say which file it runs")
    name = path.relative_to(model.bundle.path).as_posix() if model.bundle is not None else path.name
    return FileRecord(file=name, sha256=sha256_of(path))


def _name_machine(spec: RunnerSpec) -> str:
    if spec.device == "cpu":
        return describe_machine().cpu
    gpus = visible_gpus()
    return gpus[0].name if gpus else spec.device


def _add_to_certificate(bundle: Bundle, entries: Sequence[CertificateEntry], tell: Callable[[str], None]) -> None:
    try:
        certificate = bundle.certificate()
    except BundleError as error:
        tell(f"the old certificate no longer holds and is replaced: {error}")
        certificate = Certificate()
    for entry in entries:
        certificate = certificate.with_entry(entry)
    bundle.write_certificate(certificate)
