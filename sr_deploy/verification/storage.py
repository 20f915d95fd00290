"""What values are stored in between the nodes of a graph: types of results, and casts on the way. No torch here.

Alignment looks through casts and quantizations, so that graphs of several precisions can be paired. Here they are
looked at: every result has the type that its precision and its plan say, and on its way to a reader it goes through no
type that cannot hold it and no quantization that the reader does not ask for.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sr_deploy.backends import QUANTIZED, Precision
from sr_deploy.export.casts import FP32_INPUTS, Regions
from sr_deploy.export.int8.joins import list_joined
from sr_deploy.graph.io_dtype import find_io_conversions
from sr_deploy.graph.load import infer_types
from sr_deploy.verification.align import Alignment, GraphView, describe_node

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_FLOAT, _UINT8, _INT8, _UINT16, _HALF, _DOUBLE, _BF16 = 1, 2, 3, 4, 10, 11, 16
_TYPES: dict[Precision, int] = {"fp32": _FLOAT, "fp16": _HALF, "bf16": _BF16, **dict.fromkeys(QUANTIZED, _HALF)}
_HOLDING = {
    _UINT8: {_UINT16, _HALF, _FLOAT, _DOUBLE},
    _INT8: {_HALF, _FLOAT, _DOUBLE},
    _UINT16: {_FLOAT, _DOUBLE},
    _HALF: {_FLOAT, _DOUBLE},
    _BF16: {_FLOAT, _DOUBLE},
    _FLOAT: {_DOUBLE},
}
"""Types that hold every value of another."""
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
QUANTIZED_INPUTS = {"Conv": (0, 1)}
"""Inputs that an INT8 or FP8 graph may quantize, by operator; `quantized` looks at how."""


@dataclass(frozen=True)
class Storage:
    """What each result of a graph is to be stored in."""

    float_type: int
    """ONNX's number for the type that takes FP32's place."""
    held: frozenset[str]
    """Results of the reference that stay FP32 all the same, by name of the tensor."""
    quantized: bool
    """Whether convolutions may read quantized tensors."""

    def type_of(self, due: int, *, held: bool) -> int:
        """The type where the reference has `due`."""
        return self.float_type if due == _FLOAT and not held else due


def plan_storage(
    reference: ModelProto, precision: Precision, planned_fp32: Collection[str] = (), *, rest: Precision = "fp16"
) -> Storage:
    """What a graph that was made of `reference` stores its values in.

    Args:
        reference: the FP32 graph, whatever its I/O type.
        precision: of the graph that was made of it.
        planned_fp32: nodes that stay FP32.
        rest: what a quantized graph computes in between its quantized convolutions.

    Raises:
        GraphError: a planned node that is not there, or a type that cannot be inferred.
    """
    float_type = _TYPES[rest if precision in QUANTIZED else precision]
    held: set[str] = set()
    if float_type != _FLOAT:
        copied = copy.deepcopy(reference)
        regions = Regions.find(copied, planned_fp32, "the FP32 graph")
        held = {name for node in copied.graph.node if regions.holds(node) for name in node.output}
        held |= {name for node in find_io_conversions(reference) for name in node.output}
    return Storage(float_type, frozenset(held), precision in QUANTIZED)


def list_storage(reference: GraphView, candidate: GraphView, alignment: Alignment, storage: Storage) -> Iterator[str]:
    """Results and inputs of paired nodes that are stored otherwise than planned, one line each."""
    types, due_types = infer_types(candidate.model, stated=False), infer_types(reference.model, stated=False)
    for node, other in alignment.pairs:
        held = node.output[0] in storage.held
        for name, result in zip(node.output, other.output, strict=False):
            due, seen = storage.type_of(due_types.get(name, 0), held=held), types.get(result, 0)
            if due != seen and not (storage.quantized and _is_quantized_join(candidate, other, types)):
                yield f"{describe_node(other)} gives {_show(seen)} where {_show(due)} is due"
        for position, (name, taken) in enumerate(zip(node.input, other.input, strict=False)):
            stays = held or position in FP32_INPUTS.get(node.op_type, ())
            due = storage.type_of(due_types.get(name, 0), held=stays)
            if not name or not taken or _is_planned_quantization(candidate, other, position, storage, types):
                continue
            for wrong in judge_way(candidate.chain(taken), types, taken, due):
                yield f"input {position} of {describe_node(other)} {wrong}"
    due = due_types.get(reference.output, 0)
    for wrong in judge_way(candidate.chain(candidate.output), types, candidate.output, due):
        yield f"the output {wrong}"


def judge_way(chain: Sequence[NodeProto], types: Mapping[str, int], read: str, due: int) -> Iterator[str]:
    """What is wrong with the casts between a result and what reads it, each as the end of a sentence.

    Args:
        chain: what the tensor comes through, the last one first (`GraphView.chain`).
        types: of all tensors, by name.
        read: the tensor as its reader has it.
        due: the type that the reader asks for.
    """
    seen = types.get(read, 0)
    if seen != due:
        yield f"is read in {_show(seen)} where {_show(due)} is due"
    quantizers = [node for node in chain if node.op_type in _QUANTIZERS]
    if quantizers:
        yield f"comes through {describe_node(quantizers[-1])}, and is to be read as it is"
    elif chain:
        made = types.get(chain[-1].input[0], 0)
        for node in chain:
            between = types.get(node.output[0], 0)
            if between not in (made, seen) and between not in _HOLDING.get(made, ()):
                yield f"comes through {describe_node(node)} in {_show(between)}, which does not hold {_show(made)}"


def _is_planned_quantization(
    view: GraphView, node: NodeProto, position: int, storage: Storage, types: dict[str, int]
) -> bool:
    if not storage.quantized or not any(one.op_type in _QUANTIZERS for one in view.chain(node.input[position])):
        return False
    return position in QUANTIZED_INPUTS.get(node.op_type, ()) or _is_quantized_join(view, node, types)


def _is_quantized_join(view: GraphView, node: NodeProto, types: dict[str, int]) -> bool:
    """Whether a node joins or repeats quantized parts for convolutions that dequantize them (`export.int8.joins`)."""
    if not list_joined(node) or types.get(node.output[0]) != _INT8:
        return False
    return all(
        one.op_type == "DequantizeLinear" or _is_quantized_join(view, one, types)
        for one in view.readers(node.output[0])
    )


def _show(kind: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(kind)) if kind in TensorProto.DataType.values() and kind else "unknown type"
