"""Graphs compiled by OpenVINO's CPU plugin, the precision always said: by itself it takes BF16 where the CPU has it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends.description import GraphOptions, OpenedGraph
from sr_deploy.backends.openvino import PACKAGE
from sr_deploy.deps import require

if TYPE_CHECKING:
    import openvino

PURPOSE = "the openvino backend"


@functools.cache
def open_core() -> openvino.Core:
    """OpenVINO, loaded once for the process.

    Its CPU plugin (2026.4) gives the thread another stack for signals, and puts the one before back when its core goes.
    Of two cores that go in the order in which they came, the second puts back what the first has freed: the next Ctrl-C
    is then a segmentation fault.

    Raises:
        MissingDependencyError: it is not installed.
    """
    require(PACKAGE, PURPOSE)
    import openvino

    return openvino.Core()


def compile_graph(content: Path | bytes, hint: str, threads: int | None) -> openvino.CompiledModel:
    """Compile a file, or the bytes of one.

    Args:
        content: the graph.
        hint: precision of what is computed in floating point, as in `f32`.
        threads: of the CPU; None: as OpenVINO does by itself.

    Raises:
        RuntimeError: it refuses the graph.
    """
    core = open_core()
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads or 0,
        "NUM_STREAMS": 1,  # one image as fast as it goes; several streams would share the threads out
        "ENABLE_CPU_PINNING": False,  # pinned threads fight with the other backends of the process for the same cores
    }
    return core.compile_model(core.read_model(content), "CPU", settings)


def open_graph(content: Path | bytes, options: GraphOptions) -> OpenedGraph:
    """A graph with all its outputs, in FP32; it is optimized always."""
    compiled = compile_graph(content, "f32", options.threads)
    # An output may go by several names, that of a tensor which it repeats among them.
    places = [(place, name) for place, one in enumerate(compiled.outputs) for name in one.get_names()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        results = compiled(dict(feeds))
        arrays = [np.array(results[place]) for place in range(len(compiled.outputs))]
        return {name: arrays[place] for place, name in places}

    return OpenedGraph(tuple(one.get_any_name() for one in compiled.inputs), run)
