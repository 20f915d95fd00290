"""Graphs run in memory while INT8 or FP8 is searched for: in OpenVINO where that is exact, else in ONNX Runtime.

OpenVINO takes a fraction of the time of ONNX Runtime, which computes the same graph in FP32, exactly. Without
instructions for products of INT8 (VNNI and its like) OpenVINO 2026.4 seems to add them in 16 bits, where they saturate:
on a CPU with AVX2 alone single convolutions of the tests are off by up to 2.6, of results up to 3. What it says there
is true of that CPU, not of the graph. FP8 both compute in FP32, and OpenVINO 2026.4 takes longer for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import is_installed, openvino_core, require, silent_session_options
from sr_deploy.errors import BackendError, one_line
from sr_deploy.export.int8.formats import FormatName
from sr_deploy.measure.machine import has_multiplier, usable_cores

if TYPE_CHECKING:
    import onnx

Engine = Literal["openvino", "onnxruntime"]
"""What runs graphs during the search."""
Arrays = dict[str, NDArray[np.float32]]
Run = Callable[[NDArray[np.float32]], Arrays]
"""From N x C x H x W in [0, 1] to every output by name."""

_PURPOSE = "calibrating a quantized graph"


def choose_engine(precision: FormatName = "int8") -> Engine:
    """For INT8 OpenVINO if it is installed and the CPU multiplies INT8; for FP8 ONNX Runtime."""
    exact = precision == "int8" and has_multiplier("int8")
    return "openvino" if exact and is_installed("openvino") else "onnxruntime"


def open_graph(model: onnx.ModelProto, engine: Engine, *, optimize: bool = True) -> Run:
    """Make a graph ready to run; it takes any shape that the graph does.

    Args:
        model: the graph, with its weights.
        engine: what runs it.
        optimize: False: ONNX Runtime runs node by node what is written, and opens graphs of thousands of nodes in time
            that grows with their number; OpenVINO optimizes all the same.

    Raises:
        BackendError: the engine refuses the graph.
    """
    content = model.SerializeToString()
    try:
        if engine == "openvino":
            return _open_openvino(content, [value.name for value in model.graph.output])
        return _open_onnxruntime(content, optimize)
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = one_line(error, 300)
        raise BackendError(f"{engine} cannot run the graph of the search: {reason}") from error


def _open_openvino(content: bytes, names: list[str]) -> Run:
    core = openvino_core(_PURPOSE)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": _threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    # An output may go by several names, that of a tensor which it repeats among them.
    positions = {name: next(i for i, one in enumerate(compiled.outputs) if name in one.get_names()) for name in names}

    def run(lr_NCHW: NDArray[np.float32]) -> Arrays:
        results = compiled([lr_NCHW])
        return {name: np.array(results[position]) for name, position in positions.items()}

    return run


def _open_onnxruntime(content: bytes, optimize: bool) -> Run:
    ort = require("onnxruntime", _PURPOSE)
    options = silent_session_options(_PURPOSE, plan_memory=optimize)
    options.intra_op_num_threads = _threads()
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (source,) = (value.name for value in session.get_inputs())
    names = [value.name for value in session.get_outputs()]

    def run(lr_NCHW: NDArray[np.float32]) -> Arrays:
        return dict(zip(names, session.run(None, {source: lr_NCHW}), strict=True))

    return run


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), int(asked)) if asked.isdecimal() and int(asked) > 0 else usable_cores()
