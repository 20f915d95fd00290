"""What calibration measured, kept between runs (`sr_deploy.cache`) under what it depends on."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

from sr_deploy.cache import key_of
from sr_deploy.export.int8.options import Int8Options

KIND = "calibration"
"""Under which it is kept."""
_VERSION = 2
"""Raised when the same key would mean other numbers."""
_SETTINGS = (
    "method",
    "percentile",
    "per_channel",
    "equalise",
    "bias_correction",
    "crops",
    "crop_size",
    "search_crops",
    "seed",
)


class Measured(BaseModel):
    """What a calibration takes long to find out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    factors: dict[str, tuple[float, ...]]
    """What each channel of a feature map is divided by, by tensor."""
    limits: dict[str, float]
    """Greatest quantised magnitude of each feature map, by tensor."""
    shifts: dict[str, tuple[float, ...]]
    """What is added to the bias of each convolution; empty where biases stay as they are."""
    corrections: dict[str, tuple[float, float]]
    """With everything in INT8, dB lost against ground truth and PSNR against FP32 on calibration crops: of the biases
    as they are (`off`) and corrected (`on`); empty where only one was looked at."""
    errors: dict[str, float]
    """Mean squared error against FP32 with this convolution alone quantised."""


def calibration_key(graph: bytes, photographs: tuple[str, ...], options: Int8Options, engine: str) -> str:
    """SHA-256 of everything that the measured numbers depend on.

    Args:
        graph: the FP32 graph's bytes.
        photographs: hashes of all of them, sorted.
        options: of which only those count that change a number.
        engine: what runs the graph, with its version.
    """
    return key_of(
        {
            "version": _VERSION,
            "graph": hashlib.sha256(graph).hexdigest(),
            "photographs": photographs,
            "settings": options.model_dump(include=set(_SETTINGS)),
            "engine": engine,
        }
    )
