"""All rewrites in their order, and what each of them saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from sr_deploy.errors import GraphError
from sr_deploy.graph.cost import cost_layers, count_multiply_adds, sum_layers
from sr_deploy.graph.load import find_input_output, opset_of, strip_weights
from sr_deploy.graph.rewrite.average_pool import fold_average_pools
from sr_deploy.graph.rewrite.concat import split_concatenations
from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.narrow_output import pack_narrow_outputs
from sr_deploy.graph.rewrite.nearest_skip import add_skip_before_shuffle
from sr_deploy.graph.rewrite.padded_channels import pad_channels
from sr_deploy.graph.rewrite.prelu import decompose_prelu
from sr_deploy.graph.rewrite.residual_taps import fold_residuals
from sr_deploy.graph.rewrite.rewrite_options import DEFAULT, RewriteOptions
from sr_deploy.graph.rewrite.scales import fold_scales
from sr_deploy.graph.rewrite.sub_pixel import split_sub_pixels
from sr_deploy.graph.rewrite.unshuffle import fold_unshuffles
from sr_deploy.graph.shapes import infer_shapes

_MIN_OPSET = 11
_PROBE_SIDE = 96


@dataclass(frozen=True)
class GraphSize:
    """How much a graph does."""

    nodes: int
    multiply_adds: float | None
    """Per input pixel, for a picture of 96x96 where sides are free; None where shapes cannot be inferred."""
    bytes_moved: float | None
    """Of images and feature maps that nodes read and write, per input pixel; None where shapes cannot be inferred."""


@dataclass(frozen=True)
class RewriteStep:
    """What one rewrite did."""

    name: str
    """As the field of `RewriteOptions`."""
    times: int
    """Places where it was applied; 0: its pattern is nowhere."""
    before: GraphSize
    after: GraphSize


@dataclass(frozen=True)
class RewriteReport:
    """What `rewrite_model` did."""

    before: GraphSize
    after: GraphSize
    steps: tuple[RewriteStep, ...]
    """One for each rewrite that was asked for, in their order."""

    @property
    def applied(self) -> tuple[RewriteStep, ...]:
        """The rewrites that found something."""
        return tuple(step for step in self.steps if step.times)


def rewrite_model(model: onnx.ModelProto, options: RewriteOptions = DEFAULT) -> RewriteReport:
    """Rewrite a graph so that backends have less to do for the same output.

    Each rewrite is applied wherever its pattern holds exactly and leaves everything else alone, in graphs of any origin
    (opset 11 and later; what has no FP32 weights in the file stays). Inputs, outputs and metadata stay.

    Args:
        model: changed in place; weights in files beside it must have been read.
        options: which rewrites.

    Raises:
        GraphError: a graph of an opset before 11.
    """
    _check_opset(model)
    before = size = measure_graph(model)
    steps = []
    for name, rewrite in _chosen(options):
        graph = EditableGraph(model)
        times = rewrite(graph)
        if times:
            graph.commit()
        after = measure_graph(model) if times else size
        steps.append(RewriteStep(name, times, size, after))
        size = after
    return RewriteReport(before, size, tuple(steps))


def apply_rewrites(model: onnx.ModelProto, options: RewriteOptions) -> tuple[str, ...]:
    """As `rewrite_model`, without measuring the graph at each step, which takes longer than the rewriting.

    Returns:
        The names of those that found something, in their order.

    Raises:
        GraphError: a graph of an opset before 11.
    """
    _check_opset(model)
    graph = EditableGraph(model)
    applied = []
    for name, rewrite in _chosen(options):
        if rewrite(graph):
            graph.tidy()
            applied.append(name)
    if applied:
        graph.commit()
    return tuple(applied)


def _check_opset(model: onnx.ModelProto) -> None:
    if opset_of(model) < _MIN_OPSET:
        raise GraphError(f"rewrites need opset {_MIN_OPSET} or later, not {opset_of(model)}; export the graph again")


def _chosen(options: RewriteOptions) -> Iterator[tuple[str, Callable[[EditableGraph], int]]]:
    """In an order in which each makes way for the next."""
    if options.unshuffle:
        yield "unshuffle", fold_unshuffles
    if options.scales:
        yield "scales", fold_scales
    if options.residual_taps:
        # Without its sum, the outer residual scale of an RRDB follows a convolution.
        yield "residual_taps", lambda graph: fold_residuals(graph) + fold_scales(graph)
    if options.nearest_skip:
        yield "nearest_skip", add_skip_before_shuffle
    if options.average_pool:
        yield "average_pool", fold_average_pools
    if options.narrow_output:
        # Before enlargements are gone, from which it follows that sides are even.
        yield "narrow_output", pack_narrow_outputs
    form = options.sub_pixel
    if form != "off":
        yield "sub_pixel", lambda graph: split_sub_pixels(graph, form)
    leading = options.concat
    if leading is not None:
        yield "concat", lambda graph: split_concatenations(graph, leading)
    if options.channels > 1:
        yield "channels", lambda graph: pad_channels(graph, options.channels)
    if options.prelu == "decompose":
        yield "prelu", decompose_prelu


def measure_graph(model: onnx.ModelProto) -> GraphSize:
    """Nodes, multiply-adds and bytes of a graph with one image in and one out."""
    nodes = len(model.graph.node)
    skeleton = strip_weights(copy.deepcopy(model))
    try:
        source, _ = find_input_output("the graph", skeleton)
        dims = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
        if len(dims) != 4 or not dims[1]:
            return GraphSize(nodes, None, None)
        shape = (dims[0] or 1, dims[1], dims[2] or _PROBE_SIDE, dims[3] or _PROBE_SIDE)
        shapes = infer_shapes(skeleton, source.name, shape)
        pixels = shape[0] * shape[2] * shape[3]
        moved = sum_layers(cost_layers(skeleton.graph, source.name, shapes))
        products = sum(count_multiply_adds(skeleton.graph, shapes).values())
    except GraphError:
        return GraphSize(nodes, None, None)
    return GraphSize(nodes, float(products), (moved.bytes_read + moved.bytes_written) / pixels)
