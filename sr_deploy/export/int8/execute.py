"""Graphs run in memory while INT8 or FP8 is searched for, by the fastest backend that computes them exactly here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends.description import GraphOptions
from sr_deploy.backends.registry import get_backend, get_reference, list_backends
from sr_deploy.deps import is_installed
from sr_deploy.errors import BackendError, one_line
from sr_deploy.export.int8.formats import FormatName
from sr_deploy.measure.machine import usable_cores

if TYPE_CHECKING:
    import onnx

Arrays = dict[str, NDArray[np.float32]]
Run = Callable[[NDArray[np.float32]], Arrays]
"""From N x C x H x W in [0, 1] to every output by name."""


def choose_engine(precision: FormatName = "int8") -> str:
    """Name of the backend that runs graphs during the search of a precision; the reference, where no other is exact."""
    exact = (one.name for one in list_backends() if one.is_exact(precision) and is_installed(one.package.module))
    return next(exact, get_reference("graph").name)


def open_graph(model: onnx.ModelProto, engine: str | None = None, *, optimize: bool = True) -> Run:
    """Make a graph ready to run; it takes any shape that the graph does.

    Args:
        model: the graph, with its weights.
        engine: name of the backend that runs it; None: the reference.
        optimize: False: the reference runs node by node what is written, and opens graphs of thousands of nodes in time
            that grows with their number.

    Raises:
        BackendError: the backend refuses the graph.
    """
    backend = get_reference("graph") if engine is None else get_backend(engine)
    assert backend.open_graph is not None
    options = GraphOptions(threads=_threads(), optimize=optimize, plan_memory=optimize)
    try:
        graph = backend.open_graph(model.SerializeToString(), options)
    except MemoryError:
        raise
    except Exception as error:  # exceptions of some libraries share no base class
        reason = one_line(error, 300)
        raise BackendError(f"{backend.name} cannot run the graph of the search: {reason}") from error
    (source,) = graph.inputs
    return lambda lr_NCHW: graph.run({source: lr_NCHW})


def add_node(graph: onnx.GraphProto, operator: str, inputs: list[str], result: str, **attributes: int) -> None:
    """Append a node that measures something; `graph` is a copy that nobody keeps."""
    import onnx

    node = onnx.helper.make_node(operator, inputs, [result], f"probe.{result}", **attributes)  # type: ignore[arg-type]
    graph.node.append(node)


def give_out(graph: onnx.GraphProto, name: str) -> None:
    """Let an FP32 tensor be an output of the graph too."""
    import onnx

    graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), int(asked)) if asked.isdecimal() and int(asked) > 0 else usable_cores()
