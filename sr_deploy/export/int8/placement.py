"""Which convolutions of a graph may be quantized.

Read off the graph's shape, not its names, so that rewritten graphs and other people's are treated alike:

- a convolution that reads the picture itself stays float: it has few channels, so little to gain, and a symmetric step
  would leave 128 of the picture's 256 levels;
- grouped and transposed convolutions and those whose weight is computed are left alone;
- all others may be INT8, those that write the picture too.

Residual sums and activations have no multiply-adds to gain and stay float throughout.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError
from sr_deploy.export.casts import list_place_layers
from sr_deploy.graph.load import find_input_output, read_integer

if TYPE_CHECKING:
    import onnx

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_PROBE_SIDES = 48


@dataclass(frozen=True)
class Candidate:
    """A convolution that may be quantized."""

    name: str
    """Name of the Conv node."""
    data: str
    """Tensor that it reads."""
    share: float
    """Of the graph's multiply-adds, 0 to 1."""


@dataclass(frozen=True)
class Placement:
    """What is quantized and what is not."""

    candidates: tuple[Candidate, ...]
    """In the graph's order."""
    kept: dict[str, str]
    """Convolutions that stay float by rule, by node name, with the reason."""

    @property
    def share(self) -> float:
        """Share of the multiply-adds that can be INT8 at most."""
        return sum(candidate.share for candidate in self.candidates)


def place_quantization(model: onnx.ModelProto) -> Placement:
    """Find the convolutions that may be quantized.

    Args:
        model: an FP32 graph with its weights; nodes without a name of their own get one.

    Raises:
        GraphError: not one image in and one out, or shapes that cannot be inferred.
    """
    _name_nodes(model.graph)
    source, _ = find_input_output("the graph", model)
    raw = _follow(model.graph, source.name)
    constants = {tensor.name for tensor in model.graph.initializer}
    shares, places = _measure_shares(model), set(list_place_layers(model))
    candidates, kept = [], {}
    for node in model.graph.node:
        if node.op_type not in _CONVOLUTIONS:
            continue
        if node.input[0] in raw:
            kept[node.name] = "first convolution"
        elif node.name in places:
            kept[node.name] = "its result is a place to read from"
        elif node.op_type == "ConvTranspose":
            kept[node.name] = "transposed"
        elif read_integer(node, "group", 1) != 1:
            kept[node.name] = "grouped"
        elif node.input[1] not in constants:
            kept[node.name] = "weight is no constant"
        else:
            candidates.append(Candidate(node.name, node.input[0], shares[node.name]))
    return Placement(tuple(candidates), kept)


def find_modules(model: onnx.ModelProto, placement: Placement) -> dict[str, str]:
    """Of each tensor that a candidate reads, the name of a PyTorch module whose convolution reads it.

    Weights keep their module's name in the graph, as in `body.2.weight`, unless a rewrite made others of them.
    """
    ending = ".weight"
    names = {candidate.name: candidate.data for candidate in placement.candidates}
    return {
        names[node.name]: node.input[1].removesuffix(ending)
        for node in model.graph.node
        if node.name in names and node.input[1].endswith(ending)
    }


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type.lower()}_{index}.{node.output[0]}"
        taken.add(node.name)


def _follow(graph: onnx.GraphProto, source: str) -> set[str]:
    """Tensors that come from the picture without a convolution."""
    raw = {source}
    for node in graph.node:
        if node.op_type not in _CONVOLUTIONS and not raw.isdisjoint(node.input):
            raw.update(node.output)
    return raw


def _measure_shares(model: onnx.ModelProto) -> dict[str, float]:
    from sr_deploy.graph.read import describe_layers

    dims = [dim.dim_value for dim in find_input_output("the graph", model)[0].type.tensor_type.shape.dim]
    shape = (dims[0] or 1, dims[2] or _PROBE_SIDES, dims[3] or _PROBE_SIDES)
    shares: dict[str, float] = defaultdict(float)
    for layer in describe_layers(model, shape):
        shares[layer.name] += layer.share
    if not any(shares.values()):
        raise GraphError("the graph has no multiply-adds, so there is nothing to quantize")
    return shares
