"""Every number of a graph against the graph that it was made from, without running either. No torch here.

A single wrong weight drowns in the error that FP16 and INT8 have anyway; here it does not, because each is held to what
rounding alone allows:

    FP32   the same number
    FP16   the nearest FP16 number: half a unit in the last place
    BF16   likewise
    INT8   half a step of the weight's quantisation, and a step no longer than the greatest weight asks for
    bias   of a convolution with quantised input: may move by what the quantisation can cost (bias correction)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import Precision
from sr_deploy.bundle import Bundle, Check, utc_now
from sr_deploy.export.int8.bundle import load_quantised_source
from sr_deploy.files import sha256_of
from sr_deploy.graph.load import load_whole_model
from sr_deploy.verify.align import Constant, GraphView, align_graphs, describe_node, list_wiring, read_attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LEVELS = 127
_LEAST_STEP = 2.0**-20
_SLACK = 1 + 2.0**-8
"""Steps are stored as FP16 numbers, rounded up."""
_SHOWN = 20
_FLOATS = ("float16", "float32", "bfloat16")


def load_reference(bundle: Bundle, precision: Precision) -> ModelProto:
    """The FP32 graph that a bundle's graph of that precision was made of: for INT8 with its channels evened out.

    Raises:
        BundleError: the bundle has no FP32 graph, or its INT8 report is damaged.
    """
    if precision == "int8" and bundle.manifest.int8 is not None:
        return load_quantised_source(bundle.graph("fp32"), bundle.path / bundle.manifest.int8.report.file)
    return load_whole_model(bundle.graph("fp32"))


def audit_graph(path: Path, reference: Path | ModelProto, due: str, *, tolerance: float = 0.0) -> Check:
    """Compare a graph's nodes, attributes, wiring and constants with those of the graph that it was made from.

    Args:
        path: the graph to look at.
        reference: the FP32 graph.
        due: what that is, for the message.
        tolerance: how far FP32 numbers may differ, as a share of the tensor's greatest; 0: not at all.

    Raises:
        GraphError: one of them is no ONNX graph.
    """
    candidate = GraphView(load_whole_model(path))
    original = GraphView(load_whole_model(reference) if isinstance(reference, Path) else reference)
    findings = list(_list_findings(original, candidate, tolerance))
    hidden = len(findings) - _SHOWN
    if hidden > 0:
        findings[_SHOWN:] = [f"and {hidden} more"]
    count = sum(original.is_constant(name) for node in original.nodes for name in node.input if name)
    return Check(
        kind="weights",
        file=path.name,
        sha256=sha256_of(path),
        what=f"{len(original.nodes)} nodes and {count} constants against {due}: the same, cast, or quantised",
        findings=tuple(findings),
        checked_at=utc_now(),
    )


def compare_tensor(where: str, due: NDArray[np.generic], seen: NDArray[np.generic]) -> list[str]:
    """What is wrong with a tensor that has to be the same, one line each; `where` names it."""
    if due.shape != seen.shape:
        return [f"{where} has shape {seen.shape} where {due.shape} is due"]
    return list(_compare_constants(where, Constant("", due, due), Constant("", seen, seen), None, 0.0))


def _list_findings(original: GraphView, candidate: GraphView, tolerance: float) -> Iterator[str]:
    alignment = align_graphs(original, candidate)
    for node, other in alignment.pairs:
        yield from _compare_attributes(node, other)
        for position in range(max(len(node.input), len(other.input))):
            yield from _compare_input(original, candidate, node, other, position, tolerance=tolerance)
    if alignment.mismatch is not None:
        yield alignment.mismatch
    yield from list_wiring(original, candidate, alignment)


def _compare_attributes(node: NodeProto, other: NodeProto) -> Iterator[str]:
    due = {one.name: read_attribute(one) for one in node.attribute}
    seen = {one.name: read_attribute(one) for one in other.attribute}
    for name in sorted(due.keys() | seen.keys()):
        have, want = seen.get(name), due.get(name)
        if have is None or want is None or not np.array_equal(np.asarray(have), np.asarray(want)):
            yield f"{describe_node(other)} has {name} {_show(have)} where {_show(want)} is due"


def _show(value: NDArray[np.generic] | str | None) -> str:
    if value is None:
        return "left out"
    return repr(value) if isinstance(value, str) else str(value.tolist())


def _compare_input(
    original: GraphView, candidate: GraphView, node: NodeProto, other: NodeProto, position: int, *, tolerance: float
) -> Iterator[str]:
    due = original.constant(node.input[position]) if position < len(node.input) else None
    seen = candidate.constant(other.input[position]) if position < len(other.input) else None
    step = candidate.input_step(other.input[0]) if other.op_type == "Conv" else None
    is_bias = step is not None and position == 2
    if due is None and seen is None:
        return
    where = f"input {position} of {describe_node(other)}"
    if due is None and seen is not None and is_bias:
        zeros = np.zeros(seen.stored.shape, np.float32)
        due = Constant("no bias", zeros, zeros)
    if due is None or seen is None:
        holds, wants = ("computed" if one is None else f"the constant {one.name!r}" for one in (seen, due))
        yield f"{where} is {holds} where {wants} is due"
        return
    where = f"tensor {seen.name!r} ({where})"
    if due.values.shape != seen.values.shape:
        yield f"{where} has shape {seen.values.shape} where {due.values.shape} is due"
        return
    bound = _bias_bound(original, candidate, node, other, step) if is_bias and step is not None else None
    yield from _compare_constants(where, due, seen, bound, tolerance)


def _compare_constants(
    where: str, due: Constant, seen: Constant, bound: NDArray[np.float64] | None, tolerance: float
) -> Iterator[str]:
    want = np.asarray(due.values)
    have = np.asarray(seen.values)
    if seen.scale is not None:
        yield from _compare_steps(where, want, seen.scale)
        limit: NDArray[np.float64] | float = seen.scale / 2 * _SLACK
    elif bound is not None:
        limit = bound
    elif want.dtype == have.dtype and want.dtype.name in _FLOATS:
        limit = tolerance * float(np.abs(want.astype(np.float64)).max(initial=0))
    elif have.dtype.name in _FLOATS and want.dtype.name in _FLOATS:
        want, limit = want.astype(have.dtype), 0.0
    elif want.dtype == have.dtype:
        limit = 0.0
    else:
        yield f"{where} is {have.dtype} where {want.dtype} is due"
        return
    have, want = have.astype(np.float64), want.astype(np.float64)
    wrong = ~(np.abs(have - want) <= limit)  # a NaN is wrong too
    if wrong.any():
        share = np.where(wrong, np.nan_to_num(np.abs(have - want), nan=np.inf), 0)
        worst = np.unravel_index(int(np.argmax(share)), share.shape)
        place = tuple(int(index) for index in worst)
        yield (
            f"{where}: {int(wrong.sum())} of {wrong.size} values differ beyond rounding, most at {place}: "
            f"{have[worst]:.7g} where {want[worst]:.7g} is due"
        )


def _compare_steps(where: str, want: NDArray[np.generic], scale: NDArray[np.float64]) -> Iterator[str]:
    """A step that is too long would allow any error: it is held to the weights that it is for."""
    axes = tuple(axis for axis in range(want.ndim) if scale.ndim == 0 or scale.shape[axis] == 1)
    greatest = np.abs(want.astype(np.float64)).max(axis=axes, keepdims=scale.ndim > 0)
    longest = np.maximum(greatest / _LEVELS, _LEAST_STEP) * _SLACK
    wrong = ~((scale > 0) & (scale <= longest + _LEAST_STEP / 16))
    if wrong.any():
        index = int(np.argmax(wrong))
        yield (
            f"{where}: {int(wrong.sum())} of {scale.size} quantisation steps are longer than the weights ask for, "
            f"first {np.ravel(scale)[index]:.4g} where {np.ravel(greatest)[index] / _LEVELS:.4g} would do"
        )


def _bias_bound(
    original: GraphView, candidate: GraphView, node: NodeProto, other: NodeProto, step: float
) -> NDArray[np.float64] | None:
    """How far the mean of an output channel can be moved by rounding its input and its weights."""
    due, seen = original.constant(node.input[1]), candidate.constant(other.input[1])
    if due is None or seen is None or due.values.shape != seen.values.shape:
        return None
    want, have = due.values.astype(np.float64), seen.values.astype(np.float64)
    axes = tuple(range(1, want.ndim))
    of_input = np.abs(want).sum(axis=axes) * step / 2
    of_weights = np.abs(have - want).sum(axis=axes) * step * (_LEVELS + 1)
    return np.asarray((of_input + of_weights) * _SLACK + 1e-6)
