"""Ranges of all feature maps, and what FP16 costs each layer by itself, from one run of the FP32 graph per picture.

The graph is given watchers: for every feature map its greatest magnitude, and beside every layer that multiplies and
adds a twin whose inputs, weights, bias and result are rounded to FP16 and whose sums are FP32. Only single numbers
leave the graph, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.export.casts import LAYERS
from sr_deploy.export.int8.execute import add_node, give_out, open_graph
from sr_deploy.graph.change import set_nodes
from sr_deploy.graph.load import find_input_output, infer_types, name_of

if TYPE_CHECKING:
    import onnx

_FLOAT, _FLOAT16 = 1, 10
_FIGURES = (".greatest", ".square", ".unrounded", ".error")
_SILENT = 1e-3
"""Norm of a result, as a share of its norm on the picture that it answers to most; below it loss does not count."""


@dataclass(frozen=True)
class Probe:
    """What was seen, over all pictures.

    Losses are norms of errors over norms of results, on the worst picture among those that a layer answers to at all;
    infinite where something overflows.
    """

    greatest: dict[str, float]
    """Greatest magnitude of each feature map, by tensor."""
    rounding: dict[str, float]
    """Loss of each feature map that is stored in FP16 after it was computed without error, by tensor."""
    loss: dict[str, float]
    """Loss of each layer that computes in FP16 from inputs that are stored so, by node."""
    pictures: int
    """Images that were run."""


def measure_layers(model: onnx.ModelProto, inputs: Iterable[NDArray[np.float32]]) -> Probe:
    """Measure a graph.

    Args:
        model: FP32, with its weights; left as it is.
        inputs: 1 x C x H x W in [0, 1] each.

    Raises:
        GraphError: not one image in and one out.
        BackendError: ONNX Runtime does not run the graph.
    """
    watched = copy.deepcopy(model)
    maps = _find_maps(model)
    layers = {
        name_of(node): node.output[0] for node in model.graph.node if node.op_type in LAYERS and node.output[0] in maps
    }
    _watch_maps(watched.graph, maps)
    _watch_layers(watched.graph, [node for node in model.graph.node if name_of(node) in layers])
    _interleave(watched.graph, len(model.graph.node))
    run = open_graph(watched, optimize=False)
    seen: dict[str, list[float]] = defaultdict(list)
    pictures = 0
    for lr_NCHW in inputs:
        pictures += 1
        for name, value in run(lr_NCHW).items():
            if name.endswith(_FIGURES):
                seen[name].append(float(value))
    return Probe(
        greatest={name: _greatest(seen[f"{name}.greatest"]) for name in maps},
        rounding={name: _worst_loss(seen[f"{name}.unrounded"], seen[f"{name}.square"]) for name in maps},
        loss={layer: _worst_loss(seen[f"{name}.error"], seen[f"{name}.square"]) for layer, name in layers.items()},
        pictures=pictures,
    )


def _interleave(graph: onnx.GraphProto, count: int) -> None:
    """Put each watcher behind what it watches.

    A feature map is watched and freed while it is in the cache then, instead of after the last layer.

    Args:
        graph: its own nodes, then their watchers.
        count: of its own nodes.
    """
    layer_of: dict[str, int] = {}
    layers = []
    for place, node in enumerate(graph.node):
        layers.append(place if place < count else max((layer_of.get(name, 0) for name in node.input), default=0))
        layer_of.update(dict.fromkeys(node.output, layers[-1]))
    set_nodes(graph, [graph.node[place] for place in sorted(range(len(layers)), key=layers.__getitem__)])


def _greatest(values: list[float]) -> float:
    return float("inf") if not np.isfinite(values).all() else max(values, default=0.0)


def _worst_loss(errors: list[float], squares: list[float]) -> float:
    if not np.isfinite(errors).all() or not np.isfinite(squares).all():
        return float("inf")
    # Loss does not count on an image where the layer's result is almost zero.
    threshold = max(squares, default=0.0) * _SILENT**2
    pairs = zip(errors, squares, strict=True)
    return max(
        (float(np.sqrt(error / square)) for error, square in pairs if error and square >= threshold), default=0.0
    )


def _find_maps(model: onnx.ModelProto) -> list[str]:
    """Floating-point results that depend on the picture."""
    types = infer_types(model)
    seen = {find_input_output("the graph", model)[0].name}
    maps = []
    for node in model.graph.node:
        if node.op_type in ("Shape", "Size") or seen.isdisjoint(node.input):
            continue
        seen.update(node.output)
        maps += [name for name in node.output if types.get(name) == _FLOAT]
    return maps


def _watch_maps(graph: onnx.GraphProto, maps: Iterable[str]) -> None:
    for name in maps:
        add_node(graph, "Abs", [name], f"{name}.magnitude")
        add_node(graph, "ReduceMax", [f"{name}.magnitude"], f"{name}.greatest", keepdims=0)
        give_out(graph, f"{name}.greatest")
        _round(graph, name, f"{name}.rounded")
        _watch_square(graph, name, f"{name}.square")
        add_node(graph, "Sub", [f"{name}.rounded", name], f"{name}.off")
        _watch_square(graph, f"{name}.off", f"{name}.unrounded")


def _watch_layers(graph: onnx.GraphProto, layers: Iterable[onnx.NodeProto]) -> None:
    rounded = {name for node in graph.node for name in node.output if name.endswith(".rounded")}
    for node in layers:
        for name in node.input:
            if name and f"{name}.rounded" not in rounded:
                rounded.add(f"{name}.rounded")
                _round(graph, name, f"{name}.rounded")
        name = node.output[0]
        twin = graph.node.add()
        twin.CopyFrom(node)
        twin.name = f"{name_of(node)}.twin"
        twin.input[:] = [f"{one}.rounded" if one else one for one in node.input]
        twin.output[:] = [f"{name}.twin"]
        _round(graph, f"{name}.twin", f"{name}.stored")
        add_node(graph, "Sub", [f"{name}.stored", name], f"{name}.difference")
        _watch_square(graph, f"{name}.difference", f"{name}.error")


def _watch_square(graph: onnx.GraphProto, name: str, result: str) -> None:
    add_node(graph, "ReduceSumSquare", [name], result, keepdims=0)
    give_out(graph, result)


def _round(graph: onnx.GraphProto, name: str, result: str) -> None:
    add_node(graph, "Cast", [name], f"{result}.fp16", to=_FLOAT16)
    add_node(graph, "Cast", [f"{result}.fp16"], result, to=_FLOAT)
