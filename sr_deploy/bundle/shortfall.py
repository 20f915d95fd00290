"""What an entry that failed missed, where, and whether a picture would show it."""

from __future__ import annotations

import math

from sr_deploy.bundle.certificate import CertificateEntry, Measurement
from sr_deploy.bundle.thresholds import MAX_DB
from sr_deploy.bundle.tolerance import FP32_MULTIPLE, MAX_ALLOWANCE


def describe_shortfall(entry: CertificateEntry) -> str:
    """What an entry reached and what it needed, rounded so that the last bits make no other text."""
    psnr = "equal outputs" if entry.worst_psnr_db is None else f"{entry.worst_psnr_db:.0f} dB"
    said = f"{psnr}, greatest difference {entry.worst_max_abs:.0e}"
    floor, limit = entry.thresholds.get("psnr_db"), entry.thresholds.get("max_abs")
    needs = [] if floor is None else [f"{floor:.0f} dB"]
    needs += [] if limit is None else [f"at most {limit:.0e}"]
    return f"{said}; needs {', '.join(needs) or 'finite values'}"


def find_worst(entry: CertificateEntry) -> tuple[Measurement, Measurement]:
    """The judged inputs with the greatest difference and with the lowest PSNR; those that fell short come first.

    Returns:
        By `max_abs`, then by `psnr_db`. They have the worst figures of an entry that passed.
    """
    judged = entry.judged_measurements
    return (
        max(judged, key=lambda one: (max(1.0, _difference_ratio(entry, one)), one.max_abs)),
        max(judged, key=lambda one: (max(1.0, _psnr_ratio(entry, one)), -_psnr_of(one))),
    )


def describe_failure(entry: CertificateEntry) -> str:
    """The input that fell short by most, as in `noise 1x37x53, image 0, channel 2, row 110, column 7: off by ...`.

    Empty for an entry that missed nothing.
    """
    missed = entry.shortfalls
    if not missed:
        return ""
    worst = max(missed, key=lambda one: max(_difference_ratio(entry, one), _psnr_ratio(entry, one)))
    return f"{describe_input(worst)}: {_describe_error(entry, worst)}; {_describe_visibility(worst)}"


def describe_input(one: Measurement) -> str:
    """Which input, and where in its output the difference is greatest; each index counts from 0."""
    place = one.worst
    where = "" if place is None else f", image {place.image}, channel {place.channel}, row {place.y}, column {place.x}"
    return f"{one.content} {one.shape}{where}"


def describe_allowance(entry: CertificateEntry) -> str:
    """Where what FP32 is allowed on the input that is off by most comes from; empty where the threshold holds there."""
    one = find_worst(entry)[0]
    rounding = one.fp32_rounding
    if rounding is None or (one.allowed is None and one.needed_db is None):
        return ""
    psnr = "" if rounding.psnr_db is None else f" ({rounding.psnr_db:.1f} dB)"
    against = "float64" if one.reference is None else "FP32 in another memory layout, and on smaller inputs float64"
    return (
        f"{FP32_MULTIPLE:g} times what PyTorch's own FP32 is off by on {one.content} {one.shape}, "
        f"{rounding.max_abs:.1e}{psnr} against {against}; {entry.thresholds.get('max_abs', math.inf):.0e} at least, "
        f"{MAX_ALLOWANCE:.0e} (half an 8-bit step) at most"
    )


def _difference_ratio(entry: CertificateEntry, one: Measurement) -> float:
    """How many times what is allowed its greatest difference is; infinite if the output is, or nothing is allowed."""
    limit = entry.limit_of(one)
    if math.isinf(one.max_abs) or not limit:
        return math.inf if one.max_abs else 0.0
    return one.max_abs / limit


def _psnr_of(one: Measurement) -> float:
    return math.inf if one.psnr_db is None else one.psnr_db


def _psnr_ratio(entry: CertificateEntry, one: Measurement) -> float:
    """How many times what is allowed its error is in the root mean square."""
    return float(10 ** (min(entry.floor_of(one) - _psnr_of(one), MAX_DB) / 20))


def _describe_error(entry: CertificateEntry, one: Measurement) -> str:
    if math.isinf(one.max_abs):
        return "no finite output"
    limit, floor = entry.limit_of(one), entry.floor_of(one)
    allowed = f", {limit:.1e} allowed" if math.isfinite(limit) else ""
    psnr = "" if one.psnr_db is None or one.psnr_db >= floor else f", {one.psnr_db:.1f} dB where {floor:.1f} are due"
    return f"off by {one.max_abs:.1e}{allowed}{psnr}"


def _describe_visibility(one: Measurement) -> str:
    share = one.changed_8bit_more
    if share is None:
        return "whether a picture would show it was not measured"
    if share:
        return f"a picture would show it: {share:.2%} of its 8-bit samples change by more than one step"
    return "a picture would not show it: no 8-bit sample changes by more than one step"
