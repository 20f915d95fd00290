"""Every number of a graph against the graph that it was made from, without running either. No torch here.

A single wrong weight drowns in the error that FP16 and INT8 have anyway; here it does not, because each is held to what
rounding alone allows:

    FP32   the same number
    FP16   the nearest FP16 number: half a unit in the last place
    BF16   likewise
    INT8   half a step of the weight's quantization, a whole one where `int8.json` says that rounding was learned, and a
           step no longer than the greatest weight asks for
    FP8    likewise, with the distance between two numbers where the weight lies in place of the step
    bias   of a convolution with quantized input: the corrected one that `int8.json` or `fp8.json` records (`quantized`)

And so is what lies between the nodes: the type of every result, every cast and every quantization (`storage`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import Precision
from sr_deploy.bundle import Check, utc_now
from sr_deploy.errors import GraphError
from sr_deploy.export.int8.formats import NumberFormat, find_format
from sr_deploy.files import sha256_of
from sr_deploy.graph.load import load_whole_model, opset_of
from sr_deploy.graph.read import METADATA_PREFIX
from sr_deploy.verification.align import Constant, GraphView, align_graphs, describe_node, list_wiring, read_attribute
from sr_deploy.verification.quantized import is_corrected_bias, list_quantization
from sr_deploy.verification.storage import list_storage, plan_storage

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from sr_deploy.export.int8.search_report import Int8Report

_MIN_STEP = 2.0**-20
_SLACK = 1 + 2.0**-8
"""Steps are stored as FP16 numbers, rounded up."""
_SHOWN = 20
_FLOATS = ("float16", "float32", "bfloat16")
_BF16_OPSET = 22


@dataclass(frozen=True)
class Terms:
    """How a graph was made of another, which says what may differ."""

    precision: Precision = "fp32"
    planned_fp32: tuple[str, ...] = ()
    search: Int8Report | None = None
    """What `int8.json` says of an INT8 graph, or `fp8.json` of an FP8 one."""
    tolerance: float = 0.0
    """How far an FP32 number may be off, as a share of itself; and, as a sixteenth of that, of the tensor's greatest,
    since sums of terms that cancel have no more digits."""


def audit_graph(path: Path, reference: Path | ModelProto, due: str, terms: Terms) -> Check:
    """Compare a graph's nodes, attributes, wiring, types and constants with those of the graph that it was made from.

    A graph that cannot be read or compared is a finding.

    Args:
        path: the graph to look at.
        reference: the FP32 graph.
        due: what that is, for the message.
        terms: how the one was made of the other.
    """
    what = f"every node, type and constant against {due}: the same, cast, or quantized"
    try:
        candidate = GraphView(load_whole_model(path))
        original = GraphView(load_whole_model(reference) if isinstance(reference, Path) else reference)
        findings = list(_list_findings(original, candidate, terms))
        count = sum(original.is_constant(name) for node in original.nodes for name in node.input if name)
        what = f"{len(original.nodes)} nodes and {count} constants against {due}: the same, cast, or quantized"
    except GraphError as error:
        findings = [str(error)]
    return Check(
        kind="weights",
        file=path.name,
        sha256=sha256_of(path),
        what=what,
        findings=cut_findings(findings),
        checked_at=utc_now(),
    )


def cut_findings(findings: Sequence[str]) -> tuple[str, ...]:
    """The first of them, and how many more there are."""
    hidden = len(findings) - _SHOWN
    return (*findings[:_SHOWN], f"and {hidden} more") if hidden > 0 else tuple(findings)


def compare_tensor(where: str, due: NDArray[np.generic], seen: NDArray[np.generic]) -> list[str]:
    """What is wrong with a tensor that has to be the same, one line each; `where` names it."""
    if due.shape != seen.shape:
        return [f"{where} has shape {seen.shape} where {due.shape} is due"]
    return list(_compare_constants(where, Constant("", due, due), Constant("", seen, seen), 0.0))


def _list_findings(original: GraphView, candidate: GraphView, terms: Terms) -> Iterator[str]:
    storage = plan_storage(
        original.model,
        terms.precision,
        terms.planned_fp32,
        rest="fp16" if terms.search is None else terms.search.options.rest,
    )
    yield from _compare_outside(original.model, candidate.model, terms.precision)
    alignment = align_graphs(original, candidate)
    opset = opset_of(original.model)
    for node, other in alignment.pairs:
        yield from _compare_attributes(node, other, opset)
        for position in range(max(len(node.input), len(other.input))):
            yield from _compare_input(original, candidate, node, other, position, terms=terms)
    if alignment.mismatch is not None:
        yield alignment.mismatch
    yield from list_wiring(original, candidate, alignment)
    yield from list_storage(original, candidate, alignment, storage)
    if storage.quantized:
        yield from list_quantization(original, candidate, alignment, storage, terms.search)


def _compare_outside(original: ModelProto, candidate: ModelProto, precision: Precision) -> Iterator[str]:
    """Operator sets, functions, metadata, and what the graph takes and gives."""
    due, seen = opset_of(original), opset_of(candidate)
    if seen != (max(due, _BF16_OPSET) if precision == "bf16" else due):
        yield f"uses operator set {seen} where {due} is due"
    if candidate.functions:
        yield f"brings {len(candidate.functions)} function(s) of its own, first {candidate.functions[0].name!r}"
    names = [tensor.name for tensor in candidate.graph.initializer]
    names += [name for node in candidate.graph.node for name in node.output if name]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    yield from (f"tensor {name!r} is there more than once" for name in twice)
    wanted, found = _read_metadata(original), _read_metadata(candidate)
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            yield f"its metadata say {found.get(key)!r} for {key} where {wanted.get(key)!r} is due"
    for kind in ("input", "output"):
        shown = [[_show_value(value) for value in getattr(model.graph, kind)] for model in (original, candidate)]
        if shown[0] != shown[1]:
            yield f"its {kind} is {', '.join(shown[1])} where {', '.join(shown[0])} is due"


def _read_metadata(model: ModelProto) -> dict[str, str]:
    """What our exporter writes, but for the precision, which is judged for itself."""
    entries = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(METADATA_PREFIX)}
    entries.pop(f"{METADATA_PREFIX}precision", None)
    arch = f"{METADATA_PREFIX}arch"
    if arch in entries:
        with contextlib.suppress(ValidationError):  # an option that is null says the same as one that is left out
            entries[arch] = ArchSpec.model_validate_json(entries[arch]).model_dump_json()
    return entries


def _show_value(value: ValueInfoProto) -> str:
    from onnx import TensorProto

    kind = value.type.tensor_type
    dims = " x ".join(str(dim.dim_value) if dim.HasField("dim_value") else "free" for dim in kind.shape.dim)
    return f"{value.name!r} {TensorProto.DataType.Name(kind.elem_type)} {dims}"


def _compare_attributes(node: NodeProto, other: NodeProto, opset: int) -> Iterator[str]:
    due, seen = (_read_attributes(one, opset) for one in (node, other))
    for name in sorted(due.keys() | seen.keys()):
        have, want = seen.get(name), due.get(name)
        if have is None or want is None or not np.array_equal(np.asarray(have), np.asarray(want)):
            yield f"{describe_node(other)} has {name} {_show(have)} where {_show(want)} is due"


def _read_attributes(node: NodeProto, opset: int) -> dict[str, NDArray[np.generic] | str]:
    """What a node says, and what it leaves to ONNX's defaults."""
    import onnx

    stated = {one.name: read_attribute(one) for one in node.attribute}
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:  # an operator of a custom domain
        return stated
    defaults = {name: one.default_value for name, one in schema.attributes.items() if one.default_value.name}
    return {name: read_attribute(value) for name, value in defaults.items()} | stated


def _show(value: NDArray[np.generic] | str | None) -> str:
    if value is None:
        return "left out"
    return repr(value) if isinstance(value, str) else str(value.tolist())


def _compare_input(
    original: GraphView, candidate: GraphView, node: NodeProto, other: NodeProto, position: int, *, terms: Terms
) -> Iterator[str]:
    due = original.constant(node.input[position]) if position < len(node.input) else None
    seen = candidate.constant(other.input[position]) if position < len(other.input) else None
    if (due is None and seen is None) or (terms.search and is_corrected_bias(terms.search, other, position)):
        return
    where = f"input {position} of {describe_node(other)}"
    if due is None or seen is None:
        holds, wants = (
            f"the constant {one.name!r}" if one else "computed" if position < len(side.input) else "left out"
            for one, side in ((seen, other), (due, node))
        )
        yield f"{where} is {holds} where {wants} is due"
        return
    where = f"tensor {seen.name!r} ({where})"
    if due.values.shape != seen.values.shape:
        yield f"{where} has shape {seen.values.shape} where {due.values.shape} is due"
        return
    learned = terms.search is not None and bool(terms.search.learned)
    yield from _compare_constants(where, due, seen, terms.tolerance, of_step=1.0 if learned else 0.5)


def _compare_constants(
    where: str, due: Constant, seen: Constant, tolerance: float, of_step: float = 0.5
) -> Iterator[str]:
    want = np.asarray(due.values)
    have = np.asarray(seen.values)
    limit: NDArray[np.float64] | float = 0.0
    if seen.scale is not None:
        numbers = find_format(seen.stored.dtype)
        yield from _compare_steps(where, want, seen.scale, numbers)
        apart = np.maximum(numbers.spacing(have / seen.scale), numbers.spacing(want / seen.scale))
        limit = seen.scale * apart * of_step * _SLACK
    elif want.dtype == have.dtype and want.dtype.name in _FLOATS:
        sizes = np.abs(want.astype(np.float64))
        limit = tolerance * (sizes + float(sizes.max(initial=0)) / 16)
    elif have.dtype.name in _FLOATS and want.dtype.name in _FLOATS:
        want = want.astype(have.dtype)
    elif want.dtype != have.dtype:
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


def _compare_steps(
    where: str, want: NDArray[np.generic], scale: NDArray[np.float64], numbers: NumberFormat
) -> Iterator[str]:
    """A step that is too long would allow any error: it is held to the weights that it is for."""
    axes = tuple(axis for axis in range(want.ndim) if scale.ndim == 0 or scale.shape[axis] == 1)
    greatest = np.abs(want.astype(np.float64)).max(axis=axes, keepdims=scale.ndim > 0)
    longest = np.maximum(greatest / numbers.largest, _MIN_STEP) * _SLACK
    wrong = ~((scale > 0) & (scale <= longest + _MIN_STEP / 16))
    if wrong.any():
        index = int(np.argmax(wrong))
        yield (
            f"{where}: {int(wrong.sum())} of {scale.size} quantization steps are longer than the weights ask for, "
            f"first {np.ravel(scale)[index]:.4g} where {np.ravel(greatest)[index] / numbers.largest:.4g} would do"
        )
