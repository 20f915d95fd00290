"""Which layer of a graph the bytes of an engine are of, for messages: found by its numbers. No torch here.

TensorRT-RTX keeps biases and slopes as they are in the graph, and weights of convolutions output channel by output
channel, rows, columns, and input channels last, padded to whole vectors. What is not found that way goes unnamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.graph.load import load_whole_model
from sr_deploy.verification.align import GraphView, describe_node

if TYPE_CHECKING:
    from onnx import NodeProto

_VECTORS = (1, 4, 8, 16)
_MIN_BYTES = 4
_ROLES = {("Conv", 1): "weights", ("Conv", 2): "bias", ("PRelu", 1): "slopes"}
_MAX_OFFSETS = 64
_NAMED = 4


def name_layers(graph: Path, engine: bytes, offsets: Sequence[int]) -> str:
    """The constants of a graph that lie at some bytes of its engine, as in `the bias of Conv 'conv_2'`; else empty.

    Args:
        graph: what the engine was built from.
        engine: built here.
        offsets: of its bytes; of many some are looked at.

    Raises:
        GraphError: the graph cannot be read.
    """
    names: dict[str, None] = {}
    wanted = list(offsets[:: max(1, len(offsets) // _MAX_OFFSETS)])
    for name, values in _list_constants(graph):
        for stored in _list_layouts(values):
            hit = {place for place in wanted if _lies_at(stored, engine, place)}
            if hit:
                names[name] = None
                wanted = [place for place in wanted if place not in hit]
    shown = list(names)[:_NAMED]
    return ", ".join([*shown, *([f"{len(names) - _NAMED} more"] if len(names) > _NAMED else [])])


def list_rounded(graph: Path, planned_fp32: Sequence[str], engine: bytes) -> list[str]:
    """Convolutions that are planned in FP32 and whose weights an engine holds rounded to FP16 instead.

    Seen of TensorRT-RTX 1.7, although the network that it parsed declares the layer as FP32.

    Raises:
        GraphError: the graph cannot be read.
    """
    found = []
    for node, position, values in _walk(graph):
        if node.op_type != "Conv" or position != 1 or node.name not in planned_fp32 or values.dtype != np.float32:
            continue
        kept = any(stored in engine for stored in _list_layouts(values))
        if not kept and any(stored in engine for stored in _list_layouts(values.astype(np.float16))):
            found.append(node.name)
    return found


def _list_constants(graph: Path) -> Iterator[tuple[str, NDArray[np.generic]]]:
    for node, position, values in _walk(graph):
        yield f"the {_ROLES.get((node.op_type, position), f'input {position}')} of {describe_node(node)}", values


def _walk(graph: Path) -> Iterator[tuple[NodeProto, int, NDArray[np.generic]]]:
    view = GraphView(load_whole_model(graph))
    for node in view.nodes:
        for position, name in enumerate(node.input):
            constant = view.constant(name) if name else None
            # What is zero throughout lies everywhere.
            if constant is not None and constant.stored.nbytes >= _MIN_BYTES and constant.stored.any():
                yield node, position, constant.stored


def _list_layouts(values: NDArray[np.generic]) -> Iterator[bytes]:
    """The bytes in which an engine may hold a constant."""
    if values.ndim != 4 or 1 in values.shape[1:]:
        yield values.tobytes()
        return
    for vector in _VECTORS:
        padding = -values.shape[1] % vector
        if vector == 1 or padding:
            padded = np.pad(values, ((0, 0), (0, padding), (0, 0), (0, 0)))
            yield np.ascontiguousarray(padded.transpose(0, 2, 3, 1)).tobytes()


def _lies_at(stored: bytes, engine: bytes, place: int) -> bool:
    return engine.find(stored, max(0, place - len(stored) + 1), place + len(stored)) >= 0
