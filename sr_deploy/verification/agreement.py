"""How near an artifact's pictures are to the reference's, in words for people. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sr_deploy.bundle import CertificateEntry, Measurement

Grade = Literal["ok", "passes", "FAILED"]

_FEW = 0.01
"""Share of the samples more than one 8-bit step off from which an artifact is no longer plainly ok."""
_STEPS = 255


@dataclass(frozen=True)
class Agreement:
    """One entry, judged."""

    grade: Grade
    """`passes`: meets its thresholds, and is still off by more than one 8-bit step in many samples."""
    words: str
    """How many samples are off by how much on the worst input, as in `59 % of the samples more than one 8-bit step off,
    1.9 steps on average`."""


def describe_agreement(entry: CertificateEntry) -> Agreement:
    """Judge an entry by its own figures; what it says of itself does not count."""
    if not entry.sound:
        return Agreement("FAILED", _describe_distance(entry))
    return Agreement("passes" if _share_far(entry) >= _FEW else "ok", _describe_distance(entry))


def _share_far(entry: CertificateEntry) -> float:
    return max((one.changed_8bit_more or 0.0 for one in entry.judged_measurements), default=0.0)


def _describe_distance(entry: CertificateEntry) -> str:
    judged = entry.judged_measurements
    off, far = max((one.changed_8bit for one in judged), default=0.0), _share_far(entry)
    mean = _STEPS * max((one.mean_abs or 0.0 for one in judged), default=0.0)
    if not off:
        return "the same 8-bit pictures"
    if not far:
        return f"{show_share(off)} of the samples one 8-bit step off, none by more"
    if far < _FEW:
        return f"{show_share(off)} of the samples off, {show_share(far)} by more than one 8-bit step"
    return f"{show_share(far)} of the samples more than one 8-bit step off, {mean:.1f} steps on average"


def show_share(share: float) -> str:
    """As in `59 %` or `0.02 %`: two digits, and never `0 %` of something that is there."""
    percent = 100 * share
    if not 0 < percent < 100:
        return f"{percent:.0f} %"
    if percent < 0.001:
        return "under 0.001 %"
    return f"{percent:.2g} %" if percent < 99.5 else "over 99 %"


def measure_margin(entry: CertificateEntry) -> float | None:
    """The smallest distance of an entry to one of its thresholds, in dB; negative: missed. None: nothing is asked."""
    margins = [margin for one in entry.judged_measurements if (margin := margin_of(entry, one)) is not None]
    return min(margins) if margins else None


def margin_of(entry: CertificateEntry, measurement: Measurement) -> float | None:
    """As `measure_margin`, of one input."""
    limit, floor = entry.limit_of(measurement), entry.floor_of(measurement)
    margins = []
    if math.isfinite(limit) and measurement.max_abs > 0:
        ratio = limit / measurement.max_abs  # 0 where the error is infinite
        margins.append(20 * math.log10(ratio) if ratio > 0 else -math.inf)
    if floor and measurement.psnr_db is not None:
        margins.append(measurement.psnr_db - floor)
    return min(margins) if margins else None
