"""Which nodes of a graph stay FP32 when the rest becomes FP16, and the casts at the borders between the two."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError
from sr_deploy.export.float_format import FloatFormat
from sr_deploy.graph.change import set_nodes, take_name
from sr_deploy.graph.load import infer_types, name_of, strip_weights

if TYPE_CHECKING:
    import onnx

# Operators whose inputs of these positions are always FP32, whatever the data's type.
# A place in half precision is off by half a pixel from 1024 pixels on.
FP32_INPUTS = {"GridSample": (1,), "Resize": (1, 2), "Upsample": (1,)}
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply and add."""
_ALWAYS_FP32 = frozenset({"GridSample", "Range"})
"""Range is defined for neither FP16 nor BF16; TensorRT's GridSample takes its picture in the type of the places."""
_FLOAT = 1


def list_place_layers(model: onnx.ModelProto) -> list[str]:
    """Layers that multiply and add, and whose results are places or sizes alone: they stay FP32 in every graph.

    Args:
        model: FP32, with its weights; left as it is.
    """
    if not any(node.op_type == "GridSample" for node in model.graph.node):
        return []  # sizes come from no layer
    copied = strip_weights(copy.deepcopy(model))
    regions = Regions.find(copied, (), "the graph")
    return [name_of(node) for node in copied.graph.node if node.op_type in LAYERS and regions.holds(node)]


class Regions:
    """The nodes of a graph that stay FP32: planned ones, and those that compute sizes and places alone."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """`model`: FP32 throughout; `find` fills in the nodes."""
        self.model = model
        self.graph = model.graph
        self._held: set[str] = set()

    @classmethod
    def find(cls, model: onnx.ModelProto, keep_fp32: Collection[str], source: str) -> Regions:
        """Find them in a graph that is FP32 still.

        Raises:
            GraphError: a name in `keep_fp32` that no node has, or that several have.
        """
        regions = cls(model)
        for name in sorted(keep_fp32):
            found = [node for node in model.graph.node if name_of(node) == name]
            if len(found) != 1:
                raise GraphError(f"{source} has {len(found)} nodes named {name!r}; one was to stay FP32")
            regions._hold(found[0])
        for node in model.graph.node:
            if node.op_type in _ALWAYS_FP32:
                regions._hold(node)
        regions._hold_dequantizers()
        regions._hold_steering()
        made = {name for node in model.graph.node for name in node.output}
        if any(wanted and name in made for _, _, name, wanted in regions._uses()):
            _ = regions._types  # now, while all is FP32: casts will be needed
        return regions

    def holds(self, node: onnx.NodeProto) -> bool:
        """Whether a node stays FP32."""
        return bool(node.output) and node.output[0] in self._held

    def wants_fp32(self, node: onnx.NodeProto, position: int) -> bool:
        """Whether a node's input at a position has to be FP32."""
        return self.holds(node) or position in FP32_INPUTS.get(node.op_type, ())

    def is_float(self, name: str) -> bool:
        """Whether a tensor is FP32 in the graph as it was.

        Raises:
            GraphError: its type cannot be inferred.
        """
        if name not in self._types:
            raise GraphError(f"the type of tensor {name!r} cannot be inferred, so no cast can be put at it")
        return self._types[name] == _FLOAT

    @cached_property
    def _types(self) -> dict[str, int]:
        return infer_types(self.model)

    def _hold(self, node: onnx.NodeProto) -> None:
        self._held.add(node.output[0])

    def _hold_dequantizers(self) -> None:
        """A planned node takes what is dequantized to FP32, not a cast of it: with a cast between it is not INT8."""
        makers = {node.output[0]: node for node in self.graph.node if node.op_type == "DequantizeLinear"}
        copies: dict[str, onnx.NodeProto] = {}
        readers = [node for node in self.graph.node if self.holds(node)]
        for node in readers:
            for position, name in enumerate(node.input):
                if name in makers:
                    if name not in copies:
                        copies[name] = _copy_dequantizer(makers[name])
                        self._hold(copies[name])
                    node.input[position] = copies[name].output[0]
        if not copies:
            return
        nodes = [one for node in self.graph.node for one in (copies.get(node.output[0]), node) if one is not None]
        used = {name for node in nodes for name in node.input} | {value.name for value in self.graph.output}
        set_nodes(self.graph, [node for node in nodes if node.output[0] not in makers or node.output[0] in used])
        self.__dict__.pop("_types", None)

    def _hold_steering(self) -> None:
        """Nodes whose results go nowhere but into such inputs, and constants that any FP32 input reads."""
        steered: dict[str, list[bool]] = defaultdict(list)
        wanted: dict[str, bool] = defaultdict(bool)
        for value in self.graph.output:
            steered[value.name].append(False)
        for node in reversed(self.graph.node):
            uses = [one for name in node.output for one in steered.get(name, ())]
            if node.op_type == "Constant":
                steers = any(wanted[name] for name in node.output)
            else:
                steers = bool(uses) and all(uses) and all(self.is_float(name) for name in node.output if name)
            if steers:
                self._hold(node)
            for position, name in enumerate(node.input):
                # What a planned node reads is cast at its border; only what steers is FP32 all the way back.
                steered[name].append(steers or position in FP32_INPUTS.get(node.op_type, ()))
                wanted[name] = wanted[name] or self.wants_fp32(node, position)

    def separate_constants(self, suffix: str) -> set[str]:
        """Give FP32 constants that both sides read a copy for the other side; returns those that stay FP32."""
        tensors = {tensor.name: tensor for tensor in self.graph.initializer if tensor.data_type == _FLOAT}
        fp32 = {name for _, _, name, wanted in self._uses() if wanted and name in tensors}
        copied: set[str] = set()
        for node, position, name, wanted in self._uses():
            if name in fp32 and not wanted:
                node.input[position] = f"{name}.{suffix}"
                if name not in copied:
                    copied.add(name)
                    tensor = self.graph.initializer.add()
                    tensor.CopyFrom(tensors[name])
                    tensor.name = f"{name}.{suffix}"
        return fp32

    def _uses(self) -> Iterator[tuple[onnx.NodeProto, int, str, bool]]:
        for node in self.graph.node:
            for position, name in enumerate(node.input):
                if name:
                    yield node, position, name, self.wants_fp32(node, position)


def insert_casts(regions: Regions, float_format: FloatFormat) -> None:
    """Put one cast behind each tensor that is read in the other type, and one before each output; in place."""
    graph = regions.graph
    constants = {tensor.name for tensor in graph.initializer}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | constants
    inputs = [value.name for value in graph.input if value.name not in constants and _is_float(value)]
    made = {name for node in graph.node if not regions.holds(node) for name in node.output}
    outputs = {}
    for value in graph.output:
        if _is_float(value) and value.name in made:
            outputs[value.name] = take_name(f"{value.name}_{float_format.precision}", taken)
    casts = _redirect_readers(regions, float_format, made, inputs, taken)
    body: list[onnx.NodeProto] = [casts[name] for name in inputs if name in casts]
    for node in graph.node:
        body.append(node)
        body += [casts[name] for name in node.output if name in casts]
    for node in body:
        node.output[:] = [outputs.get(name, name) for name in node.output]
        node.input[:] = [outputs.get(name, name) if name not in inputs else name for name in node.input]
    body += [_cast(inside, name, _FLOAT, "fp32") for name, inside in outputs.items()]
    set_nodes(graph, body)


def _redirect_readers(
    regions: Regions, float_format: FloatFormat, made: set[str], inputs: Collection[str], taken: set[str]
) -> dict[str, onnx.NodeProto]:
    """Let nodes read casts of what has the other type; returns the casts by the tensor that they read."""
    casts: dict[str, onnx.NodeProto] = {}
    known = made | {name for node in regions.graph.node if regions.holds(node) for name in node.output}
    for node in regions.graph.node:
        for position, name in enumerate(node.input):
            wanted = regions.wants_fp32(node, position)
            if name in inputs:
                crosses = not wanted
            else:
                crosses = name in known and wanted == (name in made) and regions.is_float(name)
            if crosses:
                if name not in casts:
                    kind, suffix = (_FLOAT, "fp32") if wanted else (float_format.onnx_type, float_format.precision)
                    casts[name] = _cast(name, take_name(f"{name}_{suffix}", taken), kind, suffix)
                node.input[position] = casts[name].output[0]
    return casts


def _copy_dequantizer(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = copy.deepcopy(node)
    copied.name = f"{name_of(node)}.fp32"
    copied.output[0] = f"{node.output[0]}.fp32"
    return copied


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == _FLOAT)


def _cast(source: str, target: str, kind: int, suffix: str) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], name=f"cast_to_{suffix}.{source}", to=kind)
