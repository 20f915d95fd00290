"""Run each graph of a model on every backend of its precision and compare with PyTorch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.bundle import Certificate, CertificateEntry, NotRun, Thresholds
from sr_deploy.bundle.shortfall import describe_shortfall
from sr_deploy.errors import BackendError, InputError, OutOfMemoryError, SrDeployError
from sr_deploy.model import Model
from sr_deploy.runners.cost import find_cost
from sr_deploy.verification.calibration import Drop, measure_drop
from sr_deploy.verification.candidates import list_candidates, list_not_run
from sr_deploy.verification.entry import Setting, find_asked_precision, measure_entry
from sr_deploy.verification.fp16 import why_not_candidate
from sr_deploy.verification.grid import Cost
from sr_deploy.verification.reference import ReferenceOutputs, describe_exact
from sr_deploy.verification.standing import list_invented
from sr_deploy.verification.worst import Crop

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
    reference = describe_exact(model)
    asked_for = choices
    if choices is None:
        choices = [choice for choice in list_candidates(model) if why_not_candidate(model, choice) is None]
    if not choices and model.precisions and model.has_weights:
        return Verified((), ())  # graphs that nothing here runs: the verdict says so
    if not choices:
        raise InputError(
            f"nothing of {model.path} can be compared here: {'; '.join(one.reason for one in list_not_run(model))}"
        )
    entries: list[CertificateEntry] = []
    crops: list[Crop] = []
    left: list[NotRun] = []
    cost = find_cost(model)
    per_pixel = None if cost is None else Cost(cost.multiply_adds, model.channels * model.scale**2)
    _LOG.info("reference: %s", reference.title)
    with ReferenceOutputs(model, per_pixel, max_pixels) as outputs:
        setting = Setting(model, outputs, per_pixel, max_pixels)
        for choice in choices:
            asked = find_asked_precision(model, choice)
            limits = (thresholds or {}).get(asked) or model.thresholds_for(asked)
            if choice.floats is None:
                _LOG.info("verify %s", choice)
                entry, worst = measure_entry(setting, choice, limits)
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


def _measure_mixed(
    setting: Setting, choice: BackendChoice, limits: Thresholds, *, asked: bool
) -> tuple[CertificateEntry, Sequence[Crop]] | NotRun:
    """INT8 with a faster rest, which has to keep to the budget too; where it was not requested, only if it does."""
    _LOG.info("what %s loses on photographs", choice)
    drop = _measure_mixed_drop(setting.model, choice)
    why_not = "" if drop.within else drop.said
    if asked or drop.within:
        _LOG.info("verify %s", choice)
        entry, worst = measure_entry(setting, choice, limits)
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
