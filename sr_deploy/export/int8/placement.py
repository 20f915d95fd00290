"""Which convolutions of a graph may be quantised.

Read off the graph's shape, not its names, so that rewritten graphs and other people's are treated alike:

- the first convolution reads the picture itself: 3 channels, little to gain, and its error reaches everything;
- the tail writes it: every convolution after an enlargement, and every one whose result reaches a pixel shuffle or the
  output without another convolution in between;
- grouped convolutions and those whose weight is computed are left alone.

Residual sums, concatenations and activations have no multiply-adds to gain and stay float throughout.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError
from sr_deploy.graph.load import find_ends, read_integer

if TYPE_CHECKING:
    import onnx

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_ENLARGING = frozenset({"Resize", "Upsample", "DepthToSpace", "ConvTranspose"})
_SHUFFLES = frozenset({"DepthToSpace"})
_PROBE_SIDES = 48


@dataclass(frozen=True)
class Candidate:
    """A convolution that may be quantised."""

    name: str
    """Of its node."""
    data: str
    """Tensor that it reads."""
    share: float
    """Of the graph's multiply-adds, 0 to 1."""


@dataclass(frozen=True)
class Placement:
    """What is quantised and what is not."""

    candidates: tuple[Candidate, ...]
    """In the graph's order."""
    kept: dict[str, str]
    """Convolutions that stay float by rule, by node name, with the reason."""

    @property
    def share(self) -> float:
        """Share of the multiply-adds that can be INT8 at most."""
        return sum(candidate.share for candidate in self.candidates)


def place_quantisation(model: onnx.ModelProto) -> Placement:
    """Find the convolutions that may be quantised.

    Args:
        model: an FP32 graph with its weights; nodes without a name of their own get one.

    Raises:
        GraphError: not one image in and one out, or shapes that cannot be inferred.
    """
    _name_nodes(model.graph)
    source, target = find_ends("the graph", model)
    raw, enlarged = _follow(model.graph, source.name)
    closing = _find_closing(model.graph, target.name)
    constants = {tensor.name for tensor in model.graph.initializer}
    shares = _measure_shares(model)
    candidates, kept = [], {}
    for node in model.graph.node:
        if node.op_type not in _CONVOLUTIONS:
            continue
        if node.input[0] in raw:
            kept[node.name] = "first convolution"
        elif node.op_type == "ConvTranspose" or node.input[0] in enlarged or node.name in closing:
            kept[node.name] = "upsampling tail"
        elif read_integer(node, "group", 1) != 1:
            kept[node.name] = "grouped"
        elif node.input[1] not in constants:
            kept[node.name] = "weight is no constant"
        else:
            candidates.append(Candidate(node.name, node.input[0], shares[node.name]))
    return Placement(tuple(candidates), kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type.lower()}_{index}.{node.output[0]}"
        taken.add(node.name)


def _follow(graph: onnx.GraphProto, source: str) -> tuple[set[str], set[str]]:
    """Tensors that come from the picture without a convolution, and those behind an enlargement of feature maps."""
    raw, enlarged = {source}, set[str]()
    for node in graph.node:
        convolves = node.op_type in _CONVOLUTIONS
        if not convolves and not raw.isdisjoint(node.input):
            raw.update(node.output)
        if node.op_type in _ENLARGING or not enlarged.isdisjoint(node.input):
            enlarged.update(node.output)
    return raw, enlarged


def _find_closing(graph: onnx.GraphProto, target: str) -> set[str]:
    """Names of convolutions whose result reaches the output or a pixel shuffle with no convolution in between."""
    producers = {name: node for node in graph.node for name in node.output}
    waiting = [target]
    waiting += [node.input[0] for node in graph.node if node.op_type in _SHUFFLES]
    seen: set[str] = set()
    closing: set[str] = set()
    while waiting:
        name = waiting.pop()
        node = producers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in _CONVOLUTIONS:
            closing.add(node.name)
        else:
            waiting.extend(node.input)
    return closing


def _measure_shares(model: onnx.ModelProto) -> dict[str, float]:
    from sr_deploy.graph.read import describe_layers

    sides = [dim.dim_value for dim in find_ends("the graph", model)[0].type.tensor_type.shape.dim]
    shape = (sides[0] or 1, sides[2] or _PROBE_SIDES, sides[3] or _PROBE_SIDES)
    shares: dict[str, float] = defaultdict(float)
    for layer in describe_layers(model, shape):
        shares[layer.name] += layer.share
    if not any(shares.values()):
        raise GraphError("the graph has no multiply-adds, so there is nothing to quantise")
    return shares
