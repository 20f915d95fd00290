"""What every step towards a quantized graph needs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends.registry import get_backend
from sr_deploy.deps import installed_version
from sr_deploy.export.int8.calibration_images import CalibrationImages, CropShape, cut_crops, find_calibration_images
from sr_deploy.export.int8.execute import Run, choose_engine, open_graph
from sr_deploy.export.int8.formats import FORMATS, NumberFormat
from sr_deploy.export.int8.insert import QuantizedConv, insert_quantization
from sr_deploy.export.int8.quantization_loss import Judge
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.graph.load import find_input_output, load_model
from sr_deploy.graph.read import read_graph

if TYPE_CHECKING:
    import onnx

# Crops of each kind lie elsewhere.
RANGES_STREAM = 0
_SEARCH, _GATE = 1, 2

_LOG = logging.getLogger(__name__)
Layers = Mapping[str, QuantizedConv]
"""Quantized convolutions by the name of their node."""


@dataclass(frozen=True)
class QuantizationTask:
    """An FP32 graph, photographs, and what is wanted of them."""

    model: onnx.ModelProto
    """FP32, with its weights; never changed."""
    options: Int8Options
    photographs: CalibrationImages
    """What to calibrate and to check with."""
    shape: CropShape
    """Size and channels of crops."""
    multiple: int
    """Sides of inputs are multiples of this."""
    engine: str
    """Name of the backend that runs graphs."""
    output: str
    """Name of the graph's output."""
    path: Path
    keep_fp32: Collection[str]
    """Nodes that compute in FP32 where they are not quantized, in an FP16 graph."""
    input_steps: Mapping[str, float] = field(default_factory=dict)
    """Step of the data input of each convolution that the network was trained for INT8 with, by name of its module."""

    @property
    def format(self) -> NumberFormat:
        """What convolutions are quantized to."""
        return FORMATS[self.options.format]

    def say(self, line: str) -> None:
        """Log what is being done, with the name of the format before it."""
        _LOG.info("%s: %s", self.format.name, line)

    @property
    def engine_name(self) -> str:
        """What runs graphs, with its version."""
        return f"{self.engine} {installed_version(get_backend(self.engine).package)}"

    def stream_inputs(self) -> Iterator[NDArray[np.float32]]:
        """The crops that ranges and biases are measured on, one after the other."""
        crops = cut_crops(self.photographs.calibration, self.options.crops, self.shape, RANGES_STREAM)
        return (crop.network_input for crop in crops)

    def stream_search_inputs(self) -> Iterator[NDArray[np.float32]]:
        """The crops that layers are ranked on."""
        crops = cut_crops(self.photographs.calibration, self.options.search_crops, self.shape, _SEARCH)
        return (crop.network_input for crop in crops)

    def open_search_judge(self) -> Judge:
        """A judge on the crops that layers are ranked on."""
        return self._open_judge(self.photographs.calibration, self.options.search_crops, _SEARCH)

    def open_gate_judge(self) -> Judge:
        """A judge on crops of held-out photographs."""
        return self._open_judge(self.photographs.held_out, self.options.gate_crops, _GATE)

    def _open_judge(self, paths: tuple[Path, ...], count: int, stream: int) -> Judge:
        crops = list(cut_crops(paths, count, self.shape, stream))
        return Judge(crops, open_graph(self.model, self.engine), self.output, self.shape.scale)

    def quantize(self, layers: Layers) -> onnx.ModelProto:
        """The graph with these convolutions quantized and the rest in FP32."""
        model = copy.deepcopy(self.model)
        insert_quantization(model, layers)
        return model

    def open_with(self, layers: Layers) -> Run:
        """That graph, ready to run."""
        return open_graph(self.quantize(layers), self.engine)


def make_task(
    fp32_path: Path,
    int8_path: Path,
    options: Int8Options,
    *,
    calibration: Path | None,
    keep_fp32: Collection[str],
    input_steps: Mapping[str, float] = MappingProxyType({}),
) -> QuantizationTask:
    """Read the graph and find the photographs; see `make_int8_graph`."""
    info = read_graph(fp32_path)
    model = load_model(fp32_path)
    photographs = find_calibration_images(calibration)
    if calibration is None:
        _LOG.info(
            "%s: no --calibration folder, so the bundled photographs are used; pictures like yours would fit better",
            options.format,
        )
    if len(photographs.hashes) == 1:
        _LOG.info(
            "%s: there is one photograph only, so the budget is checked on what was calibrated with", options.format
        )
    if input_steps:  # trained with, as they are: every change would be one that the weights have not learned
        _LOG.info(
            "%s: the network was trained for it, with steps of %d convolutions that are kept",
            options.format,
            len(input_steps),
        )
        options = options.model_copy(update={"equalize": False, "learn_steps": 0, "bias_correction": "off"})
    side = -(-options.crop_size // info.input_multiple) * info.input_multiple
    return QuantizationTask(
        model=model,
        options=options,
        photographs=photographs,
        shape=CropShape(side, info.scale, info.channels, options.seed),
        multiple=info.input_multiple,
        engine=choose_engine(options.format),
        output=find_input_output(fp32_path, model)[1].name,
        path=int8_path,
        keep_fp32=keep_fp32,
        input_steps=input_steps,
    )
