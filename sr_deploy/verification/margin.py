"""How far measurements are from what was allowed."""

from __future__ import annotations

import math

from sr_deploy.bundle import CertificateEntry, Measurement


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
