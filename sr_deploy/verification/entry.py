"""Entries of the certificate: what ran where, and the worst of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.backends import QUANTIZED, BackendChoice, Precision
from sr_deploy.bundle import CertificateEntry, Measurement, utc_now
from sr_deploy.gpus import find_gpu
from sr_deploy.measure.machine import describe_machine
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.verification.contents import PHOTOGRAPH
from sr_deploy.verification.reference import ReferenceOutputs

# INT8 and FP8 clip what lies outside the ranges that they were calibrated for, and those are of photographs.
JUDGED: dict[Precision, tuple[str, ...]] = dict.fromkeys(QUANTIZED, (PHOTOGRAPH, "dark"))


def make_entry(
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
            "judged": JUDGED.get(choice.precision, ()),
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
