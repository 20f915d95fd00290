"""One backend of a model on its grid of inputs, as an entry of the certificate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.backends import QUANTIZED, BackendChoice, Precision
from sr_deploy.backends.registry import get_backend
from sr_deploy.bundle import CertificateEntry, FileRecord, Measurement, Thresholds, utc_now
from sr_deploy.deps import installed_version
from sr_deploy.errors import BackendError, DamagedBundleError, InputError, OutOfMemoryError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import find_gpu
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model
from sr_deploy.runners.choose import find_graph_precision
from sr_deploy.runners.io_conversion import rounding_of
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.verification.contents import CONTENTS, PHOTOGRAPH
from sr_deploy.verification.fp16 import name_backend, open_candidate, why_not_candidate
from sr_deploy.verification.grid import PURE_SHAPE, Cost, Point, plan_grid
from sr_deploy.verification.measuring import make_failure, run_grid
from sr_deploy.verification.reference import ReferenceOutputs
from sr_deploy.verification.worst import Crop, choose_crops

_LOG = logging.getLogger(__name__)
# INT8 and FP8 clip what lies outside the ranges that they were calibrated for, and those are of photographs.
_JUDGED: dict[Precision, tuple[str, ...]] = dict.fromkeys(QUANTIZED, (PHOTOGRAPH, "dark"))


@dataclass(frozen=True)
class Setting:
    """What all entries of one verification share."""

    model: Model
    outputs: ReferenceOutputs
    """What the reference makes of each input."""
    cost: Cost | None
    """Of one input pixel; None: unknown."""
    max_pixels: float | None
    """Of an input, batch included, that the memory holds; None: unknown."""


def measure_entry(
    setting: Setting, choice: BackendChoice, limits: Thresholds
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
        runner = _open_surely(model, choice)
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
        rounds = find_asked_precision(model, choice) == "fp32"
        run = run_grid(runner, grid, outputs, limits, file=artifact.file, rounds=rounds)
    if not run.measurements:
        raise BackendError(f"the reference runs none of the inputs for {choice}: {run.left_out[0]}")
    rounding = rounding_of(spec.dtype) + outputs.rounding
    entry = _make_entry(
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
    contents = _JUDGED.get(choice.precision, CONTENTS)
    return entry, choose_crops(crop for crop in run.crops if crop.point.content in contents)


def find_asked_precision(model: Model, choice: BackendChoice) -> Precision:
    """Whose thresholds it has to meet: FP16's where an FP16 graph is computed in FP32, which rounds at its casts."""
    stored = find_graph_precision(model, choice)
    return stored if stored == "fp16" and choice.precision == "fp32" else choice.precision


def _record_refusal(setting: Setting, choice: BackendChoice, limits: Thresholds, reason: str) -> CertificateEntry:
    path = setting.model.graph_path(find_graph_precision(setting.model, choice))
    return _make_entry(
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


def _make_entry(
    choice: BackendChoice, outputs: ReferenceOutputs, *, measurements: Sequence[Measurement], **facts: object
) -> CertificateEntry:
    """An entry with its worst figures, and whether it passed."""
    entry = CertificateEntry.model_validate(
        {
            **facts,
            "precision": choice.precision,
            "reference": outputs.reference.title,
            "reference_sha256": outputs.reference.sha256,
            "measured_at": utc_now(),
            "measurements": tuple(measurements),
            "judged": _JUDGED.get(choice.precision, ()),
            "worst_max_abs": 0.0,
            "worst_psnr_db": None,
            "passed": True,
        }
    )
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


def _find_artifact(model: Model, spec: RunnerSpec) -> FileRecord:
    """The file that was run, its hash taken from its bytes as they are now."""
    path = spec.artifact
    if path is None:
        raise InputError(f"{spec} does not say which file it runs")
    name = path.relative_to(model.bundle.path).as_posix() if model.bundle is not None else path.name
    return FileRecord(file=name, sha256=sha256_of(path))


def name_machine(spec: RunnerSpec) -> str:
    """The processor or GPU that a runner computes on."""
    if spec.device == "cpu":
        return describe_machine().cpu
    gpu = find_gpu(spec.device)
    return spec.device if gpu is None else gpu.name


def worst_entry(entries: Sequence[CertificateEntry], precision: Precision) -> CertificateEntry | None:
    """The figure of a precision: its entry with the lowest PSNR (None counts as equal, so best)."""
    of_precision = [entry for entry in entries if entry.precision == precision]
    if not of_precision:
        return None
    return min(of_precision, key=lambda entry: float("inf") if entry.worst_psnr_db is None else entry.worst_psnr_db)
