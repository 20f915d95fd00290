"""What a deployment spec says of INT8 and of FP8."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from sr_deploy.bundle.thresholds import DEFAULT_MAX_DROP_DB, DEFAULT_MAX_PIXEL_ERROR
from sr_deploy.export.int8.formats import FormatName

Method = Literal["max", "mse", "percentile"]
"""How the range of a feature map is chosen."""
Correction = Literal["auto", "on", "off"]
"""Whether biases are corrected."""
Rest = Literal["fp16", "fp32"]
"""What computes between the quantized convolutions."""
MIN_FACTOR, MAX_FACTOR = 0.5, 2.0
"""What learning may multiply a calibrated step with."""


class Int8Options(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The table `[int8]` of a deployment spec."""

    format: FormatName = "int8"
    """What convolutions are quantized to. A table of a spec has one of its own; reports record it."""
    max_drop_db: float = Field(default=DEFAULT_MAX_DROP_DB, ge=0, le=100)
    """The budget: PSNR on luma against ground truth that may be lost, in dB, mean over held-out crops, upper end of its
    95 % interval."""
    max_pixel_error: float = Field(default=DEFAULT_MAX_PIXEL_ERROR, gt=0, le=100)
    """Greatest difference from FP32 of any mean over 5x5 pixels of these crops, outputs clamped to [0, 1]: what is
    seen. A range that clips can raise the mean at the cost of single places; this catches it."""
    min_share: float = Field(default=0.05, gt=0, le=1)
    """Least share of the multiply-adds that is quantized; what meets the budget only below it is refused, since it
    would be a float network with conversions added."""
    method: Method = "percentile"
    """`max` takes the greatest magnitude seen; `mse` the clip with the least squared error; `percentile` clips what is
    beyond `percentile`."""
    percentile: float = Field(default=99.99, gt=50, lt=100)
    """For that method: share of the magnitudes inside the range, in percent."""
    per_channel: bool = True
    """A scale for each output channel of a weight; false: one for the whole weight, which fuses better on RTX."""
    equalize: bool = True
    """Whether channels of feature maps are brought to like ranges first, by factors that change no output."""
    bias_correction: Correction = "auto"
    """Whether the shift of each output channel's mean that quantizing causes is taken out of the bias: `on`, `off`, or
    `auto`, which takes what loses less against ground truth on the calibration photographs."""
    learn_steps: int = Field(default=120, ge=0, le=100_000)
    """Times that steps and weights are changed to bring the output back to FP32's; 0: they stay as calibrated."""
    learn_batch: int = Field(default=4, ge=1, le=1024)
    """Crops of the calibration photographs that each change is made on."""
    learn_size: int = Field(default=32, ge=8, le=4096)
    """Their side in low-resolution pixels."""
    crops: int = Field(default=24, ge=1, le=10_000)
    """Crops that ranges and biases are measured on."""
    crop_size: int = Field(default=64, ge=16, le=4096)
    """Their side in low-resolution pixels."""
    search_crops: int = Field(default=12, ge=1, le=10_000)
    """Crops that layers are ranked on, and that corrections and what was learned are measured on."""
    gate_crops: int = Field(default=96, ge=1, le=10_000)
    """Crops of held-out photographs that the budget is checked on."""
    curve_points: int = Field(default=3, ge=1, le=1000)
    """Points of the curve of loss over INT8 share that are measured at least."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides where crops lie, and the signs that layers are ranked with."""
    rest: Rest = "fp16"
    """What computes between the quantized convolutions: `fp16` for GPUs (CPUs run it too), or `fp32`."""


class Fp8Options(Int8Options):
    """The table `[fp8]`: as `[int8]`, but for the format and for ranges, which clip nothing.

    A floating-point number is as exact at the end of a range as in its middle, so a wide range costs nothing.
    """

    format: Literal["fp8"] = "fp8"
    """What convolutions are quantized to."""
    method: Method = "max"
    """As in `Int8Options`."""
