"""Sessions of ONNX Runtime that write nothing to stderr: names of nodes would stand there as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sr_deploy.backends.description import GraphOptions, OpenedGraph
from sr_deploy.backends.onnxruntime import PACKAGE
from sr_deploy.deps import require

if TYPE_CHECKING:
    import onnxruntime

PURPOSE = "the onnxruntime backend"
CPU = "CPUExecutionProvider"
_BROKEN = ["WeightBiasQuantization"]
"""Optimizations of ONNX Runtime (1.31) that change results: this one divides the bias of a quantized convolution by the
product of two scales in the graph's own type, and in FP16 that product has hardly a digit: 13 dB lost of a SPAN."""
_FATAL = 4
"""Level of what ends the process. What else it would say of an error is in its exceptions."""


def make_session(
    content: Path | bytes, options: GraphOptions, providers: Sequence[str | tuple[str, dict[str, str]]] = (CPU,)
) -> onnxruntime.InferenceSession:
    """A session of a file, or of the bytes of one.

    Planning memory takes time by the square of the nodes for inputs of any size, most of the opening of an RRDBNet of
    23 blocks. Without the plan the allocator gives freed memory out again all the same; networks of few layers are a
    little slower.

    Raises:
        MissingDependencyError: it is not installed.
        Exception: the graph is refused; its exceptions share no base class.
    """
    ort = require(PACKAGE, PURPOSE)
    ort.set_default_logger_severity(_FATAL)
    asked = ort.SessionOptions()
    asked.log_severity_level = _FATAL
    asked.enable_mem_reuse = options.plan_memory
    asked.intra_op_num_threads = options.threads or 0
    asked.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    asked.graph_optimization_level = level.ORT_ENABLE_ALL if options.optimize else level.ORT_DISABLE_ALL
    source = content if isinstance(content, bytes) else str(content)
    return ort.InferenceSession(source, asked, providers=list(providers), disabled_optimizers=_BROKEN)


def open_graph(content: Path | bytes, options: GraphOptions) -> OpenedGraph:
    """A graph with all its outputs, on the CPU."""
    session = make_session(content, options)
    names = [value.name for value in session.get_outputs()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))

    return OpenedGraph(tuple(value.name for value in session.get_inputs()), run)
