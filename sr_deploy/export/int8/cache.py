"""What calibration measured, kept between runs under what it depends on: graph, photographs, settings.

`$XDG_CACHE_HOME/sr-deploy/calibration/`, or `~/.cache/...`. Nothing is lost with it: what cannot be read is measured
again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sr_deploy.errors import OutputError
from sr_deploy.export.int8.options import Int8Options
from sr_deploy.files import write_text

_VERSION = 1
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


def cache_folder() -> Path:
    """Where calibrations are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "sr-deploy" / "calibration"


def calibration_key(graph: bytes, photographs: tuple[str, ...], options: Int8Options, engine: str) -> str:
    """SHA-256 of everything that the measured numbers depend on.

    Args:
        graph: the FP32 graph's bytes.
        photographs: hashes of all of them, sorted.
        options: of which only those count that change a number.
        engine: what runs the graph, with its version.
    """
    document = {
        "version": _VERSION,
        "graph": hashlib.sha256(graph).hexdigest(),
        "photographs": photographs,
        "settings": options.model_dump(include=set(_SETTINGS)),
        "engine": engine,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def read_measured(key: str) -> tuple[Measured | None, str]:
    """What was measured under that key, and a note for people: empty, or why a file that is there is not used."""
    path = cache_folder() / f"{key}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None, ""
    except (OSError, UnicodeDecodeError):
        return None, f"the kept calibration {path} cannot be read; measured again"
    try:
        return Measured.model_validate_json(text), ""
    except ValidationError:
        return None, f"the kept calibration {path} is damaged; measured again"


def keep_measured(key: str, measured: Measured) -> str:
    """Keep it; returns a note for people: empty, or why it could not be kept."""
    path = cache_folder() / f"{key}.json"
    try:
        write_text(path, measured.model_dump_json() + "\n")
    except OutputError as error:
        return f"the calibration is not kept for the next time: {error}"
    return ""
