"""A deployment for those who say what may be lost and not how: every precision is made, and what falls short left out.

FP16, BF16 and INT8 are exported and certified like any other. INT8 is searched within the budget; what FP16 and BF16
lose against photographs is measured with their certificate, and may not be more either. What is left is timed on this
machine, by the rule of `--backend auto`, which takes it from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.registry import parse_backend
from sr_deploy.bundle import DEFAULT_THRESHOLDS, Thresholds
from sr_deploy.bundle.shortfall import describe_shortfall
from sr_deploy.deploy import ExportResult
from sr_deploy.export.int8.bundle import Calibration
from sr_deploy.export.spec import ExportSpec
from sr_deploy.model import open_model
from sr_deploy.runners.fastest import ask_fastest
from sr_deploy.upscale.backend import list_candidates

_REDUCED: tuple[Precision, ...] = ("fp16", "bf16", "int8")


@dataclass(frozen=True)
class Choice:
    """What computes a deployment fastest on this machine, of what the budget allows."""

    backend: BackendChoice
    """As `--backend auto` takes it."""
    max_drop_db: float
    """The budget: dB of PSNR that may be lost against photographs."""
    drop_db: float
    """What this backend's precision loses, measured for its certificate; FP32: 0."""
    upper_db: float | None
    """Upper end of the 95 % interval of that, where one is known."""
    shape: str
    """Input that was timed, `NxHxW`."""
    milliseconds: Mapping[str, float]
    """Of every backend that was timed, the fastest first."""
    left_out: Mapping[Precision, str]
    """Precisions that the bundle does without, and why."""


def export_within(
    export: Callable[[ExportSpec, Calibration], ExportResult],
    spec: ExportSpec,
    max_drop_db: float,
    calibration: Path | None = None,
) -> tuple[ExportResult, Choice | None]:
    """Make a deployment with every precision that keeps within a budget, and find the fastest here.

    Args:
        export: makes it of a spec, by `export_bundle`; called again without a precision that fell short when it was
            certified.
        spec: what to make besides; its precisions are added to.
        max_drop_db: dB of PSNR against photographs that each precision may lose.
        calibration: folder of photographs for FP16 and INT8; None: the bundled ones.

    Returns:
        The deployment, and what computes it fastest; None where it is not verified.

    Raises:
        BackendError: nothing runs it here.
        SrDeployError: as `export`.

    Example:
        >>> def export(spec, calibration):  # doctest: +SKIP
        ...     return export_bundle("RealESRGAN_x4plus.pth", spec, calibration=calibration)
        >>> result, choice = export_within(export, load_spec(), 0.05)  # doctest: +SKIP
        >>> choice.backend, choice.drop_db  # doctest: +SKIP
        (BackendChoice(backend='openvino', precision='int8', floats='bf16'), 0.02)
    """
    left_out: dict[Precision, str] = {}
    while True:
        result = export(_with_budget(spec, max_drop_db, left_out.keys()), Calibration(calibration, optional=True))
        failed = {name: reason for name, reason in _list_failed(result).items() if name not in left_out}
        left_out |= {**result.left_out, **failed}
        if not failed:
            return result, _choose(result, max_drop_db, left_out) if result.passed else None


def _with_budget(spec: ExportSpec, max_drop_db: float, left_out: Collection[Precision]) -> ExportSpec:
    wanted = [precision for precision in _REDUCED if precision not in left_out]
    held: dict[Precision, Thresholds] = {
        precision: spec.thresholds.get(precision, DEFAULT_THRESHOLDS[precision]).model_copy(
            update={"max_drop_db": max_drop_db}
        )
        for precision in wanted
        if precision != "int8"  # its search holds it to the budget
    }
    return ExportSpec.model_validate(
        {
            **spec.model_dump(),
            "precisions": (*spec.precisions, *wanted),
            "thresholds": {**spec.thresholds, **held},
            "int8": spec.int8.model_copy(update={"max_drop_db": max_drop_db}),
        }
    )


def _list_failed(result: ExportResult) -> dict[Precision, str]:
    """Precisions less than FP32 that fell short, with the first thing that is wrong."""
    found = [(entry.precision, describe_shortfall(entry)) for entry in result.certificate if not entry.sound]
    files = {graph.file: graph.precision for graph in result.bundle.manifest.graphs}
    files |= {record.engine.file: record.precision for record in result.engines}
    for check in result.verification.checks:
        found += [(files[check.file], finding) for finding in check.findings if check.file in files]
    failed: dict[Precision, str] = {}
    for precision, reason in found:
        if precision in _REDUCED:
            failed.setdefault(precision, reason)
    return failed


def _choose(result: ExportResult, max_drop_db: float, left_out: Mapping[Precision, str]) -> Choice:
    model = open_model(result.bundle.path)
    candidates, gpu = list_candidates(model)
    answer, _ = ask_fastest(model, candidates, gpu=None if gpu is None else gpu.name)
    backend = parse_backend(answer.chosen)
    drop_db, upper_db = _find_loss(result, backend)
    return Choice(backend, max_drop_db, drop_db, upper_db, answer.shape, answer.milliseconds, dict(left_out))


def _find_loss(result: ExportResult, backend: BackendChoice) -> tuple[float, float | None]:
    """What a backend's precision loses against photographs, and the upper end of that."""
    search = result.bundle.manifest.searches.get(backend.precision)
    if backend.floats:
        entry = next(entry for entry in result.certificate if entry.backend == str(backend))
        return entry.drop_db or 0.0, None
    if search is not None:
        return search.drop_db, search.upper_db
    error_budgets = [one for one in result.verification.error_budgets if one.precision == backend.precision]
    return (error_budgets[-1].drop_db if error_budgets and backend.precision != "fp32" else 0.0), None
