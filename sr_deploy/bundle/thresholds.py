"""How near an artifact has to come to PyTorch in FP32."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import BaseModel, Field

from sr_deploy.backends import Precision
from sr_deploy.measure.compare import Comparison

MAX_DB = 3000.0
"""No PSNR is higher: an error of 10^-150 has a square that float64 just holds."""


class Thresholds(BaseModel, frozen=True, extra="forbid"):
    """What every single input has to meet. None: not asked."""

    psnr_db: float | None = Field(default=None, gt=0, le=MAX_DB, allow_inf_nan=False)
    """PSNR of outputs clamped to [0, 1], peak 1.0, in dB; at least this."""
    max_abs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Greatest absolute difference of unclamped outputs, in units of the [0, 1] range; at most this."""

    max_drop_db: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What the graph may lose against ground truth, in dB of PSNR, over the photographs of the error budget."""

    def met_by(self, comparison: Comparison) -> bool:
        """Whether one comparison meets them."""
        near = self.max_abs is None or comparison.max_abs <= self.max_abs
        alike = self.psnr_db is None or comparison.psnr_db is None or comparison.psnr_db >= self.psnr_db
        return near and alike and comparison.max_abs != float("inf")

    def widened(self, rounding: float) -> Thresholds:
        """For outputs that the graph rounds to its I/O type, each sample by at most `rounding`.

        What meets these before it is rounded meets the widened ones after it, whatever it shows: greatest errors add,
        and so do root mean squares at worst. With 8-bit I/O and FP32 inside that is half an 8-bit step and 1e-5.
        """
        if not rounding:
            return self
        psnr_db, max_abs = self.psnr_db, self.max_abs
        return Thresholds(
            psnr_db=None if psnr_db is None else -20 * math.log10(10 ** (-psnr_db / 20) + rounding),
            max_abs=None if max_abs is None else max_abs + rounding,
            max_drop_db=self.max_drop_db,
        )

    def as_dict(self) -> dict[str, float]:
        """Those that are asked, by name."""
        return self.model_dump(exclude_none=True)


# fp32: the same arithmetic in another order; 1e-5 is a 390th of an 8-bit step.
# fp16: 11 bits of mantissa kept between layers; a sound network stays above 55 dB (measured: 84 dB for a trained one)
# and no sample goes astray by more than 13 8-bit steps.
# bf16: 8 bits of mantissa; at 38 dB the error is 3 8-bit steps in the root mean square.
# int8, fp8: what they may lose against ground truth and their visible error are bounded by `Int8Options`; this finds
# graphs that went wrong. A GAN draws texture that is not in the photograph, and can be 33 dB from FP32 where it loses
# 0.02 dB.
DEFAULT_THRESHOLDS: Mapping[Precision, Thresholds] = MappingProxyType(
    {
        "fp32": Thresholds(psnr_db=100.0, max_abs=1e-5),
        "fp16": Thresholds(psnr_db=55.0, max_abs=0.05),
        "bf16": Thresholds(psnr_db=38.0),
        "int8": Thresholds(psnr_db=25.0),
        "fp8": Thresholds(psnr_db=25.0),
    }
)
"""Where neither a spec nor a bundle says otherwise."""

DEFAULT_MAX_DROP_DB = 0.05
"""What an INT8 or FP8 graph may lose against ground truth where nobody says otherwise, in dB of PSNR on luma."""
DEFAULT_MAX_PIXEL_ERROR = 0.25
"""Greatest difference from FP32 that one of its samples may have where nobody says otherwise; black is 0, white 1."""


@dataclass(frozen=True)
class Looser:
    """A threshold that asks for less than the default."""

    precision: Precision
    """Of the graphs that it is for."""
    name: str
    """Its field: `psnr_db`, `max_abs`, `max_drop_db` or `max_pixel_error`."""
    stated: float | None
    """What is asked; None: nothing."""
    default: float
    """What the default asks."""

    def __str__(self) -> str:
        if self.name == "psnr_db":
            asked = "no PSNR" if self.stated is None else f"{self.stated:g} dB"
            return f"{self.precision} needs {asked}, the default is {self.default:g} dB"
        if self.name == "max_drop_db":
            return f"{self.precision} may lose {self.stated:g} dB, the default is {self.default:g} dB"
        asked = "any difference" if self.stated is None else f"a difference of {self.stated:g}"
        return f"{self.precision} allows {asked}, the default is {self.default:g}"


def list_looser(stated: Mapping[Precision, Thresholds], precisions: Collection[Precision]) -> Iterator[Looser]:
    """Which thresholds ask for less than `DEFAULT_THRESHOLDS`; a precision without any has the default's.

    Args:
        stated: by precision.
        precisions: those to look at.
    """
    for precision in precisions:
        default, own = DEFAULT_THRESHOLDS[precision], stated.get(precision, DEFAULT_THRESHOLDS[precision])
        if default.psnr_db is not None and (own.psnr_db or 0.0) < default.psnr_db:
            yield Looser(precision, "psnr_db", own.psnr_db, default.psnr_db)
        if default.max_abs is not None and (own.max_abs is None or own.max_abs > default.max_abs):
            yield Looser(precision, "max_abs", own.max_abs, default.max_abs)
