"""Run each graph of a model on every backend of its precision and compare with FP32 PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.backends import INT8_BF16, TENSORRT_BACKENDS, Backend, BackendChoice, Precision
from sr_deploy.bundle import Certificate, CertificateEntry, FileRecord, NotRun, Thresholds, utc_now
from sr_deploy.bundle.shortfall import describe_shortfall
from sr_deploy.deps import installed_version
from sr_deploy.errors import BackendError, DamagedBundleError, InputError, OutOfMemoryError, SrDeployError
from sr_deploy.files import sha256_of
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model
from sr_deploy.runners.choose import MODULES, find_graph_precision
from sr_deploy.runners.ends import rounding_of
from sr_deploy.runners.parity import Reference
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.trt import visible_gpus
from sr_deploy.verify.calibration import Drop, measure_drop
from sr_deploy.verify.contents import CONTENTS, PHOTOGRAPH
from sr_deploy.verify.cost import find_cost
from sr_deploy.verify.engines import find_engines
from sr_deploy.verify.grid import PURE_SHAPE, Cost, Point, plan_grid
from sr_deploy.verify.half import TRUE_HALF, name_backend, open_candidate, why_not_candidate
from sr_deploy.verify.measuring import make_failure, run_grid
from sr_deploy.verify.reference import ReferenceOutputs, describe_exact
from sr_deploy.verify.standing import list_invented
from sr_deploy.verify.worst import Crop, choose_crops

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
    invented: tuple[str, ...] = ()
    """What is wrong with entries that stood in the certificate: more rounding of FP32 than there is."""
    not_run: tuple[NotRun, ...] = ()
    """INT8 with the rest in BF16, where nobody asked for it and it loses too much: an offer, no fault of a file."""


def verify_backends(
    model: Model,
    *,
    thresholds: Mapping[Precision, Thresholds] | None = None,
    choices: Sequence[BackendChoice] | None = None,
    standing: Certificate | None = None,
    most_pixels: float | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Verified:
    """Compare every artefact with the reference on a grid of shapes and contents.

    The reference is PyTorch in float64, in FP32 (TF32 off) where an input is too large for that, or for a graph without
    weights ONNX Runtime in FP32 with all optimisations off. What FP32 may be off by is derived from its own rounding
    (`sr_deploy.bundle.tolerance`). An FP16 graph is accompanied by PyTorch's true half, because ONNX Runtime computes
    FP16 convolutions in FP32 on a CPU: the FP16 figure is the worse of the two (`worst_entry`). Where graphs have ends
    of other types than float32, all are shown what those ends can hold, and the thresholds allow for their rounding.
    Nothing is written.

    Args:
        model: a bundle, an ONNX file or a checkpoint.
        thresholds: what to meet, by precision; what is left out is what the bundle asks, or the default.
        choices: what to run; None: everything of the model that this machine can run (`list_not_run` has the rest).
        standing: the bundle's certificate; what its entries say of FP32's rounding is measured again.
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
    reference = describe_exact(model)
    asked_for = choices
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
    left: list[NotRun] = []
    cost = find_cost(model)
    per_pixel = None if cost is None else Cost(cost.multiply_adds, model.channels * model.scale**2)
    with ReferenceOutputs(model, per_pixel, most_pixels) as outputs:
        for choice in choices:
            drop: Drop | str = ""
            if choice.floats is not None:
                tell(f"what {choice} loses on photographs")
                drop = _measure_mixed_drop(model, choice)
                if asked_for is None and (isinstance(drop, str) or not drop.within):
                    said = drop if isinstance(drop, str) else drop.said
                    left.append(NotRun(what=str(choice), reason=f"not certified: {said}"))
                    continue
            tell(f"verify {choice}")
            asked = _find_asked_precision(model, choice)
            limits = (thresholds or {}).get(asked) or model.thresholds_for(asked)
            try:
                entry, worst = _verify_choice(
                    model, choice, limits, outputs, cost=per_pixel, most_pixels=most_pixels, tell=tell
                )
            except DamagedBundleError as error:
                if choice.backend not in _GRAPH_BACKENDS:
                    raise
                tell(str(error))
                entry, worst = _record_refusal(model, choice, limits, reference, str(error)), ()
            if choice.floats is not None:
                entry = _with_drop(entry, drop)
                if asked_for is None and not entry.passed:
                    left.append(NotRun(what=str(choice), reason=f"not certified: {describe_shortfall(entry)}"))
                    continue
            entries.append(entry)
            crops += worst
        invented = () if standing is None else tuple(list_invented(standing, outputs))
    return Verified(tuple(entries), tuple(crops), invented, tuple(left))


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
        if precision == "int8" and model.bundle is not None and why_not_candidate(model, INT8_BF16) is None:
            found.append(INT8_BF16)
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
    outputs: ReferenceOutputs,
    *,
    cost: Cost | None,
    most_pixels: float | None,
    tell: Callable[[str], None],
) -> tuple[CertificateEntry, Sequence[Crop]]:
    with _open_surely(model, choice) as runner:
        spec = runner.spec
        artefact = _find_artefact(model, spec)
        deployed = model.bundle.manifest.profiles if model.bundle is not None else ()
        taken = spec.profiles or outputs.profiles
        grid = plan_grid(
            choice, spec.device, taken, spec.input_multiple, deployed=deployed, cost=cost, most_pixels=most_pixels
        )
        rounds = _find_asked_precision(model, choice) == "fp32"
        run = run_grid(runner, grid, outputs, limits, file=artefact.file, rounds=rounds, tell=tell)
    if not run.measurements:
        raise BackendError(f"the reference runs none of the inputs for {choice}: {run.left_out[0]}")
    rounding = rounding_of(spec.dtype) + outputs.rounding
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
        thresholds=limits.widened(rounding).as_dict() | ({"rounding": rounding} if rounding else {}),
        measurements=tuple(run.measurements),
        judged=_JUDGED.get(choice.precision, ()),
        left_out=(*grid.left_out, *run.left_out),
        worst_max_abs=0.0,
        worst_psnr_db=None,
        passed=True,
    )
    contents = _JUDGED.get(choice.precision, CONTENTS)
    crops = choose_crops(crop for crop in run.crops if crop.point.content in contents)
    return _judge(entry), crops


def _measure_mixed_drop(model: Model, choice: BackendChoice) -> Drop | str:
    """What INT8 with a faster rest loses against photographs, or why that cannot be said."""
    reason = why_not_candidate(model, choice)
    if reason is not None:
        raise BackendError(reason)
    try:
        drop = None if model.bundle is None else measure_drop(model, model.bundle, choice)
    except OutOfMemoryError:
        raise
    except SrDeployError as error:  # of a damaged file, which is another check's finding
        return str(error)
    return drop or "no budget is recorded"


def _with_drop(entry: CertificateEntry, drop: Drop | str) -> CertificateEntry:
    """With its loss, and failed where that is more than is allowed or not known."""
    if isinstance(drop, str):
        return entry.model_copy(update={"passed": False})
    return entry.model_copy(update={"passed": entry.passed and drop.within, "drop_db": drop.least_db})


def _record_refusal(
    model: Model, choice: BackendChoice, limits: Thresholds, reference: Reference, reason: str
) -> CertificateEntry:
    """The entry of a graph that a backend does not load: as wrong as can be, and the other checks go on."""
    path = model.graph_path(find_graph_precision(model, choice))
    entry = CertificateEntry(
        artefact=FileRecord(file=path.name, sha256=sha256_of(path)),
        precision=choice.precision,
        backend=str(choice),
        backend_version=installed_version(MODULES[choice.backend]) or "",
        machine=describe_machine().cpu,
        cpu_features=describe_machine().features,
        reference=reference.title,
        reference_sha256=reference.sha256,
        measured_at=utc_now(),
        thresholds=limits.as_dict(),
        measurements=(make_failure(Point(PURE_SHAPE, PHOTOGRAPH)),),
        left_out=(f"every input: {reason}",),
        worst_max_abs=0.0,
        worst_psnr_db=None,
        passed=False,
    )
    return _judge(entry)


def _judge(entry: CertificateEntry) -> CertificateEntry:
    """With its worst figures, and whether it passed."""
    judged = entry.judged_measurements
    psnrs = [one.psnr_db for one in judged if one.psnr_db is not None]
    return entry.model_copy(
        update={
            "worst_max_abs": max(one.max_abs for one in judged),
            "worst_psnr_db": min(psnrs) if psnrs else None,
            "passed": not entry.shortfalls,
        }
    )


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
