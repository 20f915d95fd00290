"""Each graph of a model on every backend of its precision, on a grid of inputs, compared with PyTorch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.registry import get_backend
from sr_deploy.bundle import Certificate, CertificateEntry, FileRecord, Measurement, NotRun, Thresholds
from sr_deploy.bundle.shortfall import describe_shortfall
from sr_deploy.deps import installed_version
from sr_deploy.errors import (
    BackendError,
    DamagedBundleError,
    InputError,
    OutOfMemoryError,
    ShapeError,
    SrDeployError,
)
from sr_deploy.files import sha256_of
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model
from sr_deploy.runners.choose import find_graph_precision
from sr_deploy.runners.cost import find_cost
from sr_deploy.runners.io_conversion import compare_decoded, rounding_of
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.verification.calibration import Drop, measure_drop
from sr_deploy.verification.candidates import (
    list_candidates,
    list_not_run,
    name_backend,
    open_candidate,
    why_not_candidate,
)
from sr_deploy.verification.contents import CONTENTS, PHOTOGRAPH
from sr_deploy.verification.entry import JUDGED, make_entry, name_machine
from sr_deploy.verification.grid import PURE_SHAPE, Cost, InputGrid, Point, plan_grid
from sr_deploy.verification.measuring import make_failure, measure_output
from sr_deploy.verification.reference import ReferenceOutputs, describe_exact
from sr_deploy.verification.standing import list_invented
from sr_deploy.verification.worst import Crop, choose_crops, cut_crop

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verified:
    """What `verify_backends` measured."""

    entries: tuple[CertificateEntry, ...]
    """One for each artifact and backend."""
    crops: tuple[Crop, ...]
    """The worst places of each entry."""
    invented: tuple[str, ...] = ()
    """What is wrong with entries that stood in the certificate: more rounding of FP32 than there is."""
    not_run: tuple[NotRun, ...] = ()
    """INT8 with the rest in BF16, which was not requested and loses too much: no fault of a file."""


@dataclass(frozen=True)
class _Setting:
    """What all entries of one verification share."""

    model: Model
    outputs: ReferenceOutputs
    """What the reference makes of each input."""
    cost: Cost | None
    """Of one input pixel; None: unknown."""
    max_pixels: float | None
    """Of an input, batch included, that the memory holds; None: unknown."""


def verify_backends(
    model: Model,
    *,
    thresholds: Mapping[Precision, Thresholds] | None = None,
    choices: Sequence[BackendChoice] | None = None,
    standing: Certificate | None = None,
    max_pixels: float | None = None,
) -> Verified:
    """Compare every artifact with the reference on a grid of shapes and contents.

    The reference is PyTorch in float64, in FP32 (TF32 off) where an input is too large for that, or for a graph without
    weights ONNX Runtime in FP32 with all optimizations off. What FP32 may be off by is derived from its own rounding
    (`sr_deploy.bundle.tolerance`). An FP16 graph is accompanied by PyTorch's true FP16, because ONNX Runtime computes
    FP16 convolutions in FP32 on a CPU: the FP16 figure is the worse of the two (`worst_entry`). Where graphs have
    another I/O type than float32, all are shown what it can hold, and the thresholds allow for its rounding.
    Nothing is written.

    Args:
        model: a bundle, an ONNX file or a checkpoint.
        thresholds: what to meet, by precision; what is left out is what the bundle asks, or the default.
        choices: what to run; None: everything of the model that this machine can run (`list_not_run` has the rest).
        standing: the bundle's certificate; what its entries say of FP32's rounding is measured again.
        max_pixels: of an input, batch included, that the memory holds; None: unknown.

    Returns:
        One entry for each artifact and backend, each bound to the artifact's hash. `passed` says how it went. None
        where no backend of a bundle's graphs is here.

    Raises:
        BackendError: a choice does not run here, or the reference failed. A backend that fails on an input fails the
            verification, with an infinite error.
        InputError: nothing to compare, or with.
        VerificationError: the reference itself gives no finite numbers.
    """
    asked_for = choices
    if choices is None:
        choices = [choice for choice in list_candidates(model) if why_not_candidate(model, choice) is None]
    if not choices and model.precisions and model.has_weights:
        return Verified((), ())  # graphs that nothing here runs: the verdict says so
    if not choices:
        describe_exact(model)  # where there is nothing to compare with, that is what to say
        raise InputError(
            f"nothing of {model.path} can be compared here: {'; '.join(one.reason for one in list_not_run(model))}"
        )
    entries: list[CertificateEntry] = []
    crops: list[Crop] = []
    left: list[NotRun] = []
    cost = find_cost(model)
    per_pixel = None if cost is None else Cost(cost.multiply_adds, model.channels * model.scale**2)
    with ReferenceOutputs(model, per_pixel, max_pixels) as outputs:
        _LOG.info("reference: %s", outputs.reference.title)
        setting = _Setting(model, outputs, per_pixel, max_pixels)
        for choice in choices:
            asked = _find_asked_precision(model, choice)
            limits = (thresholds or {}).get(asked) or model.thresholds_for(asked)
            if choice.floats is None:
                _LOG.info("verify %s", choice)
                entry, worst = _measure_entry(setting, choice, limits)
            else:
                offer = _measure_mixed(setting, choice, limits, asked=asked_for is not None)
                if isinstance(offer, NotRun):
                    left.append(offer)
                    continue
                entry, worst = offer
            entries.append(entry)
            crops += worst
        invented = () if standing is None else tuple(list_invented(standing, outputs))
    return Verified(tuple(entries), tuple(crops), invented, tuple(left))


def _measure_entry(
    setting: _Setting, choice: BackendChoice, limits: Thresholds
) -> tuple[CertificateEntry, Sequence[Crop]]:
    """Compare one backend with the reference.

    Args:
        setting: what is verified, and against what.
        choice: what runs it.
        limits: what to meet, before they are widened for the rounding by the I/O type.

    Returns:
        The entry, and the worst places. A graph of a bundle that a backend refuses, though it runs here, has one input
        with an infinite error: the other checks go on.

    Raises:
        BackendError: the choice does not run here, or the reference runs none of its inputs.
        DamagedBundleError: an engine, or weights, of a bundle that do not load.
    """
    model, outputs = setting.model, setting.outputs
    try:
        runner = open_candidate(model, choice)
    except DamagedBundleError as error:
        if get_backend(choice.backend).artifact != "graph":
            raise
        _LOG.warning("%s", error)
        return _record_refusal(setting, choice, limits, str(error)), ()
    with runner:
        spec = runner.spec
        artifact = _find_artifact(model, spec)
        grid = plan_grid(
            choice,
            spec.device,
            spec.profiles or outputs.profiles,
            spec.input_multiple,
            deployed=model.bundle.manifest.profiles if model.bundle is not None else (),
            cost=setting.cost,
            max_pixels=setting.max_pixels,
        )
        rounds = _find_asked_precision(model, choice) == "fp32"
        run = _run_grid(runner, grid, outputs, limits, file=artifact.file, rounds=rounds)
    if not run.measurements:
        raise BackendError(f"the reference runs none of the inputs for {choice}: {run.left_out[0]}")
    rounding = rounding_of(spec.dtype) + outputs.rounding
    entry = make_entry(
        choice,
        outputs,
        artifact=artifact,
        backend=name_backend(choice, spec),
        backend_version=spec.version,
        rewrites=spec.rewrites,
        machine=name_machine(spec),
        cpu_features=describe_machine().features if spec.device == "cpu" else (),
        thresholds=limits.widened(rounding).as_dict() | ({"rounding": rounding} if rounding else {}),
        measurements=run.measurements,
        left_out=(*grid.left_out, *run.left_out),
    )
    contents = JUDGED.get(choice.precision, CONTENTS)
    return entry, choose_crops(crop for crop in run.crops if crop.point.content in contents)


@dataclass(frozen=True)
class _Run:
    """One backend on its inputs."""

    measurements: list[Measurement]
    """One for each input that the reference runs."""
    crops: list[Crop]
    """The worst place of each output that differs."""
    left_out: list[str]
    """Inputs that the reference does not run, with the reason."""


def _run_grid(
    runner: Runner,
    grid: InputGrid,
    outputs: ReferenceOutputs,
    limits: Thresholds,
    *,
    file: str,
    rounds: bool,
) -> _Run:
    """Run every input of a grid and compare. One that the backend fails on counts as an infinite error.

    Args:
        runner: the backend.
        grid: the inputs.
        outputs: what the reference makes of them.
        limits: what to meet, before they are widened for the rounding by the I/O type.
        file: what the backend runs, for the crops.
        rounds: whether the limits are of FP32, whose own rounding counts too: it is measured where an input comes near
            them.
    """
    run = _Run([], [], [])
    dtype = runner.spec.dtype
    for point in grid.points:
        try:
            expected = outputs.find(point)
        except BackendError as error:  # as networks that mirror at borders with a picture of one pixel
            run.left_out.append(f"{point}: the reference does not run it: {error}")
            continue
        try:
            sr_NCHW = runner.infer(expected.lr_NCHW)
            comparison = compare_decoded(sr_NCHW, expected.sr_NCHW, dtype)
        except (BackendError, ShapeError) as error:  # loaded, but not able to run this input: as wrong as can be
            _LOG.warning("%s failed: %s", runner.spec, error)
            run.measurements.append(make_failure(point))
            continue
        measurement = measure_output(point, comparison, sr_NCHW, outputs, limits, dtype=dtype, rounds=rounds)
        run.measurements.append(measurement)
        if measurement.worst is not None:
            pictures = (expected.lr_NCHW, np.asarray(expected.sr_NCHW, np.float32), sr_NCHW)
            crop = cut_crop(str(runner.spec), file, point, measurement.worst, comparison.max_abs, pictures=pictures)
            run.crops.append(crop)
    return run


def _find_asked_precision(model: Model, choice: BackendChoice) -> Precision:
    """Whose thresholds it has to meet: FP16's where an FP16 graph is computed in FP32, which rounds at its casts."""
    stored = find_graph_precision(model, choice)
    return stored if stored == "fp16" and choice.precision == "fp32" else choice.precision


def _find_artifact(model: Model, spec: RunnerSpec) -> FileRecord:
    """The file that was run, its hash taken from its bytes as they are now."""
    path = spec.artifact
    if path is None:
        raise InputError(f"{spec} does not say which file it runs")
    name = path.relative_to(model.bundle.path).as_posix() if model.bundle is not None else path.name
    return FileRecord(file=name, sha256=sha256_of(path))


def _record_refusal(setting: _Setting, choice: BackendChoice, limits: Thresholds, reason: str) -> CertificateEntry:
    path = setting.model.graph_path(find_graph_precision(setting.model, choice))
    return make_entry(
        choice,
        setting.outputs,
        artifact=FileRecord(file=path.name, sha256=sha256_of(path)),
        backend=str(choice),
        backend_version=installed_version(get_backend(choice.backend).package) or "",
        rewrites=(),
        machine=describe_machine().cpu,
        cpu_features=describe_machine().features,
        thresholds=limits.as_dict(),
        measurements=[make_failure(Point(PURE_SHAPE, PHOTOGRAPH))],
        left_out=(f"every input: {reason}",),
    )


def _measure_mixed(
    setting: _Setting, choice: BackendChoice, limits: Thresholds, *, asked: bool
) -> tuple[CertificateEntry, Sequence[Crop]] | NotRun:
    """INT8 with a faster rest, which has to keep to the budget too; where it was not requested, only if it does."""
    _LOG.info("what %s loses on photographs", choice)
    drop = _measure_mixed_drop(setting.model, choice)
    why_not = "" if drop.within else drop.said
    if asked or drop.within:
        _LOG.info("verify %s", choice)
        entry, worst = _measure_entry(setting, choice, limits)
        if asked or entry.passed:
            drop_db = drop.least_db if math.isfinite(drop.least_db) else None
            return entry.model_copy(update={"passed": entry.passed and drop.within, "drop_db": drop_db}), worst
        why_not = describe_shortfall(entry)
    return NotRun(what=str(choice), reason=f"not certified: {why_not}")


def _measure_mixed_drop(model: Model, choice: BackendChoice) -> Drop:
    """What INT8 with a faster rest loses against photographs; infinite where that cannot be said."""
    reason = why_not_candidate(model, choice)
    if reason is not None:
        raise BackendError(reason)
    try:
        drop = None if model.bundle is None else measure_drop(model, model.bundle, choice)
    except OutOfMemoryError:
        raise
    except SrDeployError as error:  # of a damaged file, which is another check's finding
        return Drop(math.inf, 0.0, str(error))
    return drop or Drop(math.inf, 0.0, "no budget is recorded")
