"""What runners are compared with, and how near they have to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.errors import InputError
from sr_deploy.files import sha256_of
from sr_deploy.measure.compare import Comparison
from sr_deploy.model import Model
from sr_deploy.runners.choose import open_runner
from sr_deploy.runners.protocol import Runner


@dataclass(frozen=True)
class Thresholds:
    """How near an output has to come to the reference's; every input has to meet both. None: not asked."""

    max_abs: float | None = None
    """Greatest absolute difference allowed, unclamped, in units of the [0, 1] range."""
    psnr_db: float | None = None
    """PSNR needed, clamped to [0, 1], peak 1.0, in dB."""

    def met_by(self, comparison: Comparison) -> bool:
        """Whether one comparison meets them."""
        near = self.max_abs is None or comparison.max_abs <= self.max_abs
        alike = self.psnr_db is None or comparison.psnr_db is None or comparison.psnr_db >= self.psnr_db
        return near and alike and comparison.max_abs != float("inf")

    def as_dict(self) -> dict[str, float]:
        """Those that are asked, by name."""
        asked = {"max_abs": self.max_abs, "psnr_db": self.psnr_db}
        return {name: value for name, value in asked.items() if value is not None}


# fp32: the same arithmetic in another order; 1e-5 is a 390th of an 8-bit step.
# fp16: 11 bits of mantissa kept between layers; a sound network stays above 55 dB (measured: 84 dB for a trained one)
# and no sample goes astray by more than 13 8-bit steps.
# bf16: 8 bits of mantissa; at 38 dB the error is 3 8-bit steps in the root mean square.
# int8: the error against FP32 that cost a trained compact network 0.07 dB against ground truth was 39 dB.
DEFAULT_THRESHOLDS: Mapping[Precision, Thresholds] = MappingProxyType(
    {
        "fp32": Thresholds(max_abs=1e-5, psnr_db=100.0),
        "fp16": Thresholds(max_abs=0.05, psnr_db=55.0),
        "bf16": Thresholds(psnr_db=38.0),
        "int8": Thresholds(psnr_db=35.0),
    }
)


@dataclass(frozen=True)
class Reference:
    """What a model's artefacts are compared with."""

    title: str
    """As in `torch:fp32`, or what stands in where there are no PyTorch weights."""
    sha256: str
    """Hash of the file of weights, or of the graph."""


def describe_reference(model: Model) -> Reference:
    """What `open_reference` computes, without loading it.

    Raises:
        InputError: neither weights nor an ONNX graph, so there is nothing to compare with.
    """
    if model.has_weights and model.weights_path is not None:
        return Reference("torch:fp32", sha256_of(model.weights_path))
    if not model.precisions:
        raise InputError(
            f"{model.path} holds neither PyTorch weights nor an ONNX graph to compare with; give the bundle it is of"
        )
    precision = model.precisions[0]
    return Reference(f"onnxruntime:{precision}, graph as written", sha256_of(model.graph_path(precision)))


def open_reference(model: Model, *, threads: int | None = None) -> Runner:
    """PyTorch in fp32 (TF32 off); for a graph without weights, ONNX Runtime with every optimisation off, on the CPU.

    Raises:
        InputError: nothing to compare with.
        BackendError: it does not run here.
    """
    describe_reference(model)
    if model.has_weights:
        return open_runner(model, BackendChoice("torch", "fp32"), threads=threads)
    from sr_deploy.runners.onnxruntime_runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(model, BackendChoice("onnxruntime", model.precisions[0]), "cpu", threads, optimise=False)
