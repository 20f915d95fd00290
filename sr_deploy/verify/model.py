"""Run each graph of a model on every backend of its precision and compare with FP32 PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import TENSORRT_BACKENDS, Backend, BackendChoice, Precision
from sr_deploy.bundle import CertificateEntry, FileRecord, Measurement, NotRun, Thresholds, WorstPlace, utc_now
from sr_deploy.errors import BackendError, DamagedBundleError, InputError, OutOfMemoryError
from sr_deploy.files import sha256_of
from sr_deploy.graph.ends import Dtype
from sr_deploy.measure.compare import Comparison, measure_ssim
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model
from sr_deploy.runners.choose import find_graph_precision
from sr_deploy.runners.ends import compare_at_ends, rounding_of, snap_input
from sr_deploy.runners.parity import Reference, describe_reference, open_reference
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.trt import visible_gpus
from sr_deploy.verify.contents import CONTENTS, PHOTOGRAPH, draw_content
from sr_deploy.verify.cost import find_cost
from sr_deploy.verify.half import TRUE_HALF, name_backend, open_candidate, why_not_candidate
from sr_deploy.verify.integrity import find_engines
from sr_deploy.verify.lattice import Cost, Lattice, Point, plan_lattice
from sr_deploy.verify.worst import Crop, choose_crops, cut_crop

__all__ = ["NotRun", "Verified", "list_not_run", "name_machine", "verify_backends", "worst_entry"]

# INT8 clips what lies outside the ranges that it was calibrated for, and those are of photographs.
_JUDGED: dict[Precision, tuple[str, ...]] = {"int8": (PHOTOGRAPH, "dark")}
_GRAPH_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Verified:
    """What `verify_backends` measured."""

    entries: tuple[CertificateEntry, ...]
    """One for each artefact and backend."""
    crops: tuple[Crop, ...]
    """The worst places of each entry."""


def verify_backends(
    model: Model,
    *,
    thresholds: Mapping[Precision, Thresholds] | None = None,
    choices: Sequence[BackendChoice] | None = None,
    most_pixels: float | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Verified:
    """Compare every artefact with the reference on a lattice of shapes and contents.

    The reference is FP32 PyTorch (TF32 off), or for a graph without weights ONNX Runtime in FP32 with all optimisations
    off. An FP16 graph is accompanied by PyTorch's true half, because ONNX Runtime computes FP16 convolutions in FP32 on
    a CPU: the FP16 figure is the worse of the two (`worst_entry`). Where graphs have ends of other types than float32,
    all are shown what those ends can hold, and the thresholds allow for their rounding. Nothing is written.

    Args:
        model: a bundle, an ONNX file or a checkpoint.
        thresholds: what to meet, by precision; what is left out is what the bundle asks, or the default.
        choices: what to run; None: everything of the model that this machine can run (`list_not_run` has the rest).
        most_pixels: of an input, batch included, that the memory holds; None: unknown.
        on_stage: told what is being done, one line each.

    Returns:
        One entry for each artefact and backend, each bound to the artefact's hash. `passed` says how it went. None
        where no backend of a bundle's graphs is here.

    Raises:
        BackendError: a choice does not run here, or the reference failed. A backend that fails on an input fails the
            verification, with an infinite error.
        InputError: nothing to compare, or with.
        VerificationError: the reference itself gives no finite numbers.
    """
    reference = describe_reference(model)
    if choices is None:
        choices = [choice for choice in _candidates(model) if why_not_candidate(model, choice) is None]
    if not choices and model.precisions and model.has_weights:
        return Verified((), ())  # graphs that nothing here runs: the verdict says so
    if not choices:
        raise InputError(
            f"nothing of {model.path} can be compared here: {'; '.join(one.reason for one in list_not_run(model))}"
        )
    tell = on_stage or (lambda _: None)
    tell(f"reference: {reference.title}")
    entries: list[CertificateEntry] = []
    crops: list[Crop] = []
    cost = find_cost(model)
    per_pixel = None if cost is None else Cost(cost.multiply_adds, model.channels * model.scale**2)
    with open_reference(model) as oracle:
        outputs = _ReferenceOutputs(oracle, reference, model.end_dtype)
        for choice in choices:
            tell(f"verify {choice}")
            asked = _find_asked_precision(model, choice)
            limits = (thresholds or {}).get(asked) or model.thresholds_for(asked)
            entry, worst = _verify_choice(
                model, choice, limits, outputs, cost=per_pixel, most_pixels=most_pixels, tell=tell
            )
            entries.append(entry)
            crops += worst
    return Verified(tuple(entries), tuple(crops))


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
        reason = why_not_candidate(model, choice)
        if reason is not None:
            missing.append(NotRun(what=str(choice), reason=reason))
    folder = find_engines(model)
    for record in folder.engines() if folder is not None else ():
        choice = BackendChoice(record.backend, record.precision)
        reason = why_not_candidate(model, choice)
        if reason is not None and (choices is None or choice in choices):
            what = f"{choice} {record.engine.file} ({record.target})"
            missing.append(NotRun(what=what, file=record.engine.file, reason=reason))
    return missing


def worst_entry(entries: Sequence[CertificateEntry], precision: Precision) -> CertificateEntry | None:
    """The figure of a precision: its entry with the lowest PSNR (None counts as equal, so best)."""
    of_precision = [entry for entry in entries if entry.precision == precision]
    if not of_precision:
        return None
    return min(of_precision, key=lambda entry: float("inf") if entry.worst_psnr_db is None else entry.worst_psnr_db)


class _ReferenceOutputs:
    """What the reference makes of each input, computed once."""

    def __init__(self, oracle: Runner, reference: Reference, dtype: Dtype) -> None:
        self.reference = reference
        self.rounding = rounding_of(oracle.spec.dtype)
        self.profiles = oracle.spec.profiles
        self._oracle = oracle
        self._dtype = dtype
        self._known: dict[Point, tuple[NDArray[np.float32], NDArray[np.float32] | BackendError]] = {}

    def pair(self, point: Point) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Input and the reference's output.

        Raises:
            BackendError: the reference does not take this input.
        """
        if point not in self._known:
            spec = self._oracle.spec
            lr_NCHW = snap_input(draw_content(point.content, point.shape, spec.channels, spec.scale), self._dtype)
            try:
                self._known[point] = lr_NCHW, self._oracle.infer(lr_NCHW)
            except BackendError as error:
                self._known[point] = lr_NCHW, error
        lr_NCHW, sr_NCHW = self._known[point]
        if isinstance(sr_NCHW, BackendError):
            raise sr_NCHW
        return lr_NCHW, sr_NCHW


def _candidates(model: Model) -> list[BackendChoice]:
    """What there is to verify, runnable or not."""
    precisions = model.precisions
    if not precisions:
        return [BackendChoice("torch", "fp16"), BackendChoice("torch", "bf16")] if model.has_weights else []
    found = []
    for precision in precisions:
        if precision == "bf16":
            # No CPU backend has BF16 convolutions: the graph is run in FP32 with each result rounded. The others
            # compute the same arithmetic from the weights and the FP32 graph.
            found.append(BackendChoice("onnxruntime", "bf16"))
            found += [BackendChoice("torch", "bf16")] if model.has_weights else []
            found += [BackendChoice("openvino", "bf16")] if "fp32" in precisions else []
            continue
        # OpenVINO's CPU plugin computes FP16 graphs in FP32: it would say nothing about them as FP16.
        backends = ("onnxruntime",) if precision == "fp16" else _GRAPH_BACKENDS
        found += [BackendChoice(backend, precision) for backend in backends]
        if precision == "fp16":
            found.append(TRUE_HALF)
            found += [] if "fp32" in precisions else [BackendChoice("openvino", "fp32")]
    folder = find_engines(model)
    engines = folder.engines() if folder is not None else ()
    found += [BackendChoice(record.backend, record.precision) for record in engines]
    return list(dict.fromkeys(found))


def _find_asked_precision(model: Model, choice: BackendChoice) -> Precision:
    """Whose thresholds it has to meet: FP16's where an FP16 graph is computed in FP32, which rounds at its casts."""
    stored = find_graph_precision(model, choice)
    return stored if stored == "fp16" and choice.precision == "fp32" else choice.precision


def _verify_choice(
    model: Model,
    choice: BackendChoice,
    limits: Thresholds,
    outputs: _ReferenceOutputs,
    *,
    cost: Cost | None,
    most_pixels: float | None,
    tell: Callable[[str], None],
) -> tuple[CertificateEntry, list[Crop]]:
    with _open_surely(model, choice) as runner:
        spec = runner.spec
        rounding = rounding_of(spec.dtype) + outputs.rounding
        limits = limits.widened(rounding)
        artefact = _find_artefact(model, spec)
        deployed = model.bundle.manifest.profiles if model.bundle is not None else ()
        taken = spec.profiles or outputs.profiles
        lattice = plan_lattice(
            choice, spec.device, taken, spec.input_multiple, deployed=deployed, cost=cost, most_pixels=most_pixels
        )
        run = _run_lattice(runner, lattice, outputs, artefact.file, tell)
    if not run.measured:
        raise BackendError(f"the reference runs none of the inputs for {choice}: {run.left_out[0]}")
    measurements = [measurement for measurement, _ in run.measured]
    contents = _JUDGED.get(choice.precision, CONTENTS)
    judged = [(one, comparison) for one, comparison in run.measured if one.content in contents] or run.measured
    psnrs = [one.psnr_db for one, _ in judged if one.psnr_db is not None]
    entry = CertificateEntry(
        artefact=artefact,
        precision=choice.precision,
        backend=name_backend(choice, spec),
        backend_version=spec.version,
        rewrites=spec.rewrites,
        machine=name_machine(spec),
        cpu_features=describe_machine().features if spec.device == "cpu" else (),
        reference=outputs.reference.title,
        reference_sha256=outputs.reference.sha256,
        measured_at=utc_now(),
        thresholds=limits.as_dict() | ({"rounding": rounding} if rounding else {}),
        measurements=tuple(measurements),
        judged=_JUDGED.get(choice.precision, ()),
        left_out=(*lattice.left_out, *run.left_out),
        worst_max_abs=max(one.max_abs for one, _ in judged),
        worst_psnr_db=min(psnrs) if psnrs else None,
        passed=all(limits.met_by(comparison) for _, comparison in judged)
        and all(np.isfinite(one.max_abs) for one in measurements),
    )
    return entry, choose_crops(crop for crop in run.crops if crop.point.content in contents)


def _open_surely(model: Model, choice: BackendChoice) -> Runner:
    """A runner; a graph of a bundle that a backend refuses, though it runs here, is the bundle's fault."""
    reason = why_not_candidate(model, choice)
    if reason is not None:
        raise BackendError(reason)
    try:
        return open_candidate(model, choice)
    except OutOfMemoryError:
        raise
    except BackendError as error:
        if model.bundle is None:
            raise
        raise DamagedBundleError(str(error)) from error


@dataclass(frozen=True)
class _Run:
    """One backend on its lattice."""

    measured: list[tuple[Measurement, Comparison]]
    crops: list[Crop]
    left_out: list[str]


def _run_lattice(
    runner: Runner, lattice: Lattice, outputs: _ReferenceOutputs, file: str, tell: Callable[[str], None]
) -> _Run:
    run = _Run([], [], [])
    for point in lattice.points:
        try:
            lr_NCHW, expected = outputs.pair(point)
        except BackendError as error:  # as networks that mirror at borders with a picture of one pixel
            run.left_out.append(f"{point}: the reference does not run it: {error}")
            continue
        try:
            sr_NCHW = runner.infer(lr_NCHW)
        except BackendError as error:  # loaded, but not able to run this input: as wrong as can be
            tell(f"{runner.spec} failed: {error}")
            comparison = Comparison(
                max_abs=float("inf"), psnr_db=0.0, changed_8bit=1.0, mean_abs=float("inf"), changed_8bit_more=1.0
            )
            run.measured.append((_to_measurement(point, comparison, None), comparison))
            continue
        comparison = compare_at_ends(sr_NCHW, expected, runner.spec.dtype)
        ssim = measure_ssim(sr_NCHW, expected) if np.isfinite(comparison.max_abs) else None
        measurement = _to_measurement(point, comparison, ssim)
        run.measured.append((measurement, comparison))
        if measurement.worst is not None:
            pictures = (lr_NCHW, expected, sr_NCHW)
            crop = cut_crop(str(runner.spec), file, point, measurement.worst, comparison.max_abs, pictures=pictures)
            run.crops.append(crop)
    return run


def _to_measurement(point: Point, comparison: Comparison, ssim: float | None) -> Measurement:
    place = dict(zip(("image", "channel", "y", "x"), comparison.worst, strict=True)) if comparison.worst else None
    return Measurement(
        shape=str(point.shape),
        content=point.content,
        max_abs=comparison.max_abs,
        psnr_db=comparison.psnr_db,
        changed_8bit=comparison.changed_8bit,
        changed_8bit_more=comparison.changed_8bit_more,
        mean_abs=comparison.mean_abs,
        ssim=ssim,
        worst=WorstPlace(**place) if place is not None else None,
    )


def _find_artefact(model: Model, spec: RunnerSpec) -> FileRecord:
    """The file that was run, its hash taken from its bytes as they are now."""
    path = spec.artefact
    if path is None:
        raise InputError(f"{spec} does not say which file it runs")
    name = path.relative_to(model.bundle.path).as_posix() if model.bundle is not None else path.name
    return FileRecord(file=name, sha256=sha256_of(path))


def name_machine(spec: RunnerSpec) -> str:
    """The processor or GPU that a runner computes on."""
    if spec.device == "cpu":
        return describe_machine().cpu
    gpus = visible_gpus()
    return gpus[0].name if gpus else spec.device
