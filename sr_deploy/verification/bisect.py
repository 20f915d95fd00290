"""Where a graph begins to compute something else: node by node against the graph that it was made from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import Precision
from sr_deploy.backends.description import GraphOptions
from sr_deploy.backends.registry import get_reference
from sr_deploy.bundle import Bundle, Shape
from sr_deploy.bundle.records import Record
from sr_deploy.deps import require
from sr_deploy.errors import BackendError, InputError
from sr_deploy.graph.io_dtype import DTYPES, Dtype
from sr_deploy.graph.load import find_input_output, load_whole_model
from sr_deploy.model import Model
from sr_deploy.runners.inputs import photograph_batch
from sr_deploy.runners.io_conversion import encode_input
from sr_deploy.verification.align import GraphView, align_graphs, describe_node
from sr_deploy.verification.origin import load_reference, make_again

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LOG = logging.getLogger(__name__)
# Relative errors that rounding alone does not reach, and by how much more than it got a culprit must give.
_LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15, "int8": 0.4, "fp8": 0.4}
_GROWTH = 4.0
_SIDES = (24, 32)
Outputs = dict[str, NDArray[np.float64]]
Pairs = Sequence[tuple["NodeProto", str, str]]
"""Node of the candidate, the name of its output there, and in the reference."""


class NodeError(Record):
    """One node of the graph that was looked at."""

    node: str
    """Operator and name, as in `Conv 'node_conv2d_3'`."""
    before: float
    """Greatest error of what it reads, as a share of the reference's root mean square."""
    after: float
    """Error of what it gives; infinite if that is not finite."""


class Bisection(Record):
    """What `--bisect` found in one graph."""

    file: str
    """File name of the graph."""
    against: str
    """What its nodes were compared with."""
    compared: int
    """Nodes that were compared."""
    culprit: NodeError | None
    """The first whose output is worse than rounding explains, though what it reads is not; None: there is none."""
    steepest: NodeError | None
    """The one where the error grows most, if there is no culprit."""
    mismatch: str | None = None
    """Why the nodes of the two graphs do not correspond from some place on."""

    def describe(self) -> str:
        """In one line."""
        if self.culprit is not None:
            found = f"goes wrong at {self.culprit.node}: {_show_errors(self.culprit)}"
        elif self.mismatch is not None:
            found = f"is not the same network: {self.mismatch}"
        elif self.steepest is not None:
            found = f"has no node that goes wrong; the error grows most at {self.steepest.node}: "
            found += _show_errors(self.steepest)
        else:
            found = "has no node that differs at all"
        return f"bisect: {self.file} {found} ({self.compared} nodes against {self.against})"


def bisect_model(model: Model) -> list[Bisection]:
    """Bisect every graph of a bundle: FP32 against the network exported again, the others against FP32.

    Args:
        model: a bundle.

    Raises:
        InputError: the model is not a bundle: a lone graph has nothing to be compared with node by node.
        BackendError: ONNX Runtime does not run a graph.
    """
    bundle = model.bundle
    if model.kind != "bundle" or bundle is None:
        raise InputError(f"{model.path} is not a bundle: --bisect compares its graphs with each other, node by node")
    found = []
    for graph in bundle.manifest.graphs:
        _LOG.info("bisect %s", graph.file)
        path = bundle.path / graph.file
        if graph.precision == "fp32":
            reference = make_again(model, bundle, rewritten=False, exporter=True)
            against = "the network exported again"
        else:
            reference, against = load_reference(bundle, graph.precision), bundle.graph("fp32").name
        found.append(bisect_graph(path, reference, against, graph.precision, _draw_input(model, bundle)))
    return found


def bisect_graph(
    path: Path, reference: ModelProto, against: str, precision: Precision, lr_NCHW: NDArray[np.float32]
) -> Bisection:
    """Bisect one graph.

    Args:
        path: the graph.
        reference: one that computes the same, with the same names of tensors or nodes.
        against: what that is, for people.
        precision: of the graph: says what rounding may cost.
        lr_NCHW: an input, as the reference takes it.

    Raises:
        GraphError: no ONNX graph.
        BackendError: ONNX Runtime does not run a graph.
    """
    candidate = load_whole_model(path)
    pairs, mismatch = _pair_outputs(reference, candidate, by_name=precision == "fp32")
    due = _run_marked(reference, [pair[2] for pair in pairs], lr_NCHW)
    seen = _run_marked(candidate, [pair[1] for pair in pairs], lr_NCHW)
    errors = {other: measure_error(seen[other], due[name]) for _, other, name in pairs}
    view = GraphView(candidate)
    nodes = [
        NodeError(node=describe_node(node), before=_error_before(view, node, errors), after=errors[other])
        for node, other, _ in pairs
    ]
    limit = _LIMITS[precision]
    culprits = (one for one in nodes if one.after > limit and one.after > _GROWTH * one.before)
    return Bisection(
        file=path.name,
        against=against,
        compared=len(nodes),
        culprit=next(culprits, None),
        steepest=max((one for one in nodes if one.after > one.before), key=_growth, default=None),
        mismatch=mismatch,
    )


def measure_error(seen: NDArray[np.float64], due: NDArray[np.float64]) -> float:
    """Root mean square of the difference as a share of that of what is due.

    Infinite where shapes differ or values are not finite.
    """
    if seen.shape != due.shape or not np.isfinite(seen).all():
        return float("inf")
    difference, size = float(np.linalg.norm(seen - due)), float(np.linalg.norm(due))
    return difference / size if size else (float("inf") if difference else 0.0)


def _pair_outputs(reference: ModelProto, candidate: ModelProto, *, by_name: bool) -> tuple[Pairs, str | None]:
    """What corresponds: tensors of the same name where a graph was rewritten, else nodes of the same place."""
    first, second = GraphView(reference), GraphView(candidate)
    if by_name:
        known = {name for node in first.nodes for name in node.output}
        return [(node, name, name) for node in second.nodes for name in node.output[:1] if name in known], None
    alignment = align_graphs(first, second)
    return [(other, other.output[0], node.output[0]) for node, other in alignment.pairs], alignment.mismatch


def _run_marked(model: ModelProto, names: Sequence[str], lr_NCHW: NDArray[np.float32]) -> Outputs:
    """The tensors of these names for an input, by the reference backend of graphs without optimizations."""
    require("polygraphy", "--bisect")
    from polygraphy.backend.onnx import modify_outputs

    reference, asked = get_reference("graph"), list(dict.fromkeys(names))
    assert reference.open_graph is not None
    marked = modify_outputs(copy.deepcopy(model), outputs=asked)
    source, _ = find_input_output("the graph", model)
    dtype: Dtype = DTYPES.get(source.type.tensor_type.elem_type, "float32")
    try:
        graph = reference.open_graph(marked.SerializeToString(), GraphOptions(optimize=False, plan_memory=False))
        outputs = graph.run({source.name: encode_input(lr_NCHW, dtype)})
    except Exception as error:  # exceptions of some libraries share no base class
        raise BackendError(f"{reference.name} does not run a graph with all its tensors given out: {error}") from error
    return {name: np.asarray(outputs[name], np.float64) for name in asked}


def _error_before(view: GraphView, node: NodeProto, errors: dict[str, float]) -> float:
    return max((errors.get(source, 0.0) for source in _sources(view, node)), default=0.0)


def _sources(view: GraphView, node: NodeProto) -> Iterator[str]:
    for name in node.input:
        if name and not view.is_constant(name):
            yield view.source(name)


def _draw_input(model: Model, bundle: Bundle) -> NDArray[np.float32]:
    multiple = bundle.manifest.input_multiple
    h, w = (-(-side // multiple) * multiple for side in _SIDES)
    return photograph_batch(Shape(1, h, w), model.channels, model.scale)


def _growth(error: NodeError) -> float:
    return error.after - error.before


def _show_errors(error: NodeError) -> str:
    return f"relative error {error.before:.2g} before it and {error.after:.2g} after"
