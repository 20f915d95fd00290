"""What calibration measured, kept between runs (`sr_deploy.cache`) under what it depends on."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from sr_deploy.cache import key_of
from sr_deploy.export.int8.quantization_loss import Loss
from sr_deploy.export.int8.quantization_options import Int8Options

KIND, JUDGED_KIND = "calibration", "int8-judged"
"""Under which what is measured and what is judged are kept."""
_VERSION = 5
"""Raised when the same key would mean other numbers."""
_SETTINGS = (
    "format",
    "method",
    "percentile",
    "per_channel",
    "equalize",
    "bias_correction",
    "learn_steps",
    "learn_batch",
    "learn_size",
    "crops",
    "crop_size",
    "search_crops",
    "seed",
)


class Measured(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What a calibration takes long to find out."""

    factors: dict[str, tuple[float, ...]]
    """What each channel of a feature map is divided by, by tensor."""
    limits: dict[str, float]
    """Greatest quantized magnitude of each feature map, by tensor."""
    learned: dict[str, float]
    """What the step of each feature map is multiplied with, by tensor; empty where nothing was learned."""
    moved: dict[str, str]
    """By how many numbers of the format rounded weights are moved, by node: -1 to 1, compressed; empty where nothing
    was learned."""
    learning: dict[str, float]
    """PSNR against FP32 on calibration crops with everything quantized: as calibrated (`before`) and learned (`after`);
    empty where nothing was learned."""
    shifts: dict[str, tuple[float, ...]]
    """What is added to the bias of each convolution; empty where biases stay as they are."""
    corrections: dict[str, tuple[float, float]]
    """With everything quantized, dB lost against ground truth and PSNR against FP32 on calibration crops: of the biases
    as they are (`off`) and corrected (`on`); empty where only one was looked at."""
    errors: dict[str, float]
    """Mean squared error against FP32 with this convolution alone quantized."""


class Judged(BaseModel, frozen=True, extra="forbid", allow_inf_nan=True):
    """What graphs lose on the gate's crops, kept so that another budget does not measure it again."""

    losses: dict[str, Loss]
    """By what is left out, one name a line."""
    fp32_psnr_db: float
    """What FP32 reaches against the originals."""


def pack_moves(moves: NDArray[np.int8]) -> str:
    """Numbers from -1 to 1 as text."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(moves).tobytes())).decode("ascii")


def unpack_moves(text: str, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Back to numbers."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8).reshape(shape)


def calibration_key(
    graph: bytes,
    photographs: tuple[str, ...],
    options: Int8Options,
    engine: str,
    keep_fp32: tuple[str, ...] = (),
    *,
    input_steps: Mapping[str, float] = MappingProxyType({}),
) -> tuple[str, str]:
    """SHA-256 of everything that the measured numbers depend on, and of what the judged ones do.

    Args:
        graph: the FP32 graph's bytes.
        photographs: hashes of all of them, sorted.
        options: of which only those count that change a number.
        engine: what runs the graph, with its version.
        keep_fp32: nodes that stay FP32 where they are not INT8.
        input_steps: that the network was trained with.
    """
    measured = {
        "version": _VERSION,
        "graph": hashlib.sha256(graph).hexdigest(),
        "photographs": photographs,
        "settings": options.model_dump(include=set(_SETTINGS)),
        "engine": engine,
        "input_steps": dict(input_steps),
    }
    judged = {"gate_crops": options.gate_crops, "rest": options.rest, "keep_fp32": sorted(keep_fp32)}
    return key_of(measured), key_of({**measured, **judged})
