"""Whether an ONNX model is whole and consistent: looked at once, when a file is loaded.

What comes after may rely on it: every name is made once and before it is read, every node has the inputs and the
attributes that its operator needs, every tensor holds what it says, and there are no functions any more. What is
refused is what no backend could run either, or what no network for images has.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sr_deploy.graph.change import set_nodes
from sr_deploy.graph.order import inner_graphs, names_read_inside, sort_nodes, walk_nodes
from sr_deploy.graph.tensors import check_tensor
from sr_deploy.legible import show_value

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto
    from onnx.defs import OpSchema

OWN_DOMAINS = ("", "ai.onnx")
MAX_NODES = 15_000
"""Of a graph and all graphs in it, with its functions written out: seven times those of RRDBNet with 23 blocks. What
backends need to open a graph grows with the square of it."""
_MAX_DEPTH, _MAX_INNER = 4, 512
"""Of branches and bodies in one another, and of all: OpenVINO takes minutes over 25 in one another, in a file of 5 kB,
and over 4000 side by side."""
# Numbers that sizes are divided by, or that say how often something is repeated.
_POSITIVE = frozenset(
    ("blocksize", "dilations", "group", "kernel_shape", "kernel_size", "num_groups", "num_outputs", "strides")
)
_LARGEST = 2**24
"""Of positions and lengths in attributes, without sign: libraries compute with them before they compare them."""
_ANY_NUMBER = frozenset(("ends", "starts", "value_int", "value_ints"))


def is_operator(node: NodeProto, *op_types: str) -> bool:
    """Whether a node is one of ONNX's own operators of these types; any of them where none is named."""
    return node.domain in OWN_DOMAINS and (not op_types or node.op_type in op_types)


def check_model(model: ModelProto) -> None:
    """Check a model that was parsed, write out its functions, and put its nodes in an order that runs; in place.

    Raises:
        ValueError: one line, as in `node 'conv3' has no attribute 'to', which Cast needs`.
    """
    opsets = _check_opsets(model)
    if not model.graph.node:
        raise ValueError("it has no nodes")
    constants = {tensor.name for tensor in model.graph.initializer}
    if not model.graph.output or all(value.name in constants for value in model.graph.input):
        raise ValueError("it has no input, or no output")
    model.ClearField("training_info")  # no backend reads it
    _write_out_functions(model)
    _check_graph(model.graph, (), opsets)


def _check_opsets(model: ModelProto) -> dict[str, int]:
    import onnx

    opsets = {("" if entry.domain in OWN_DOMAINS else entry.domain): int(entry.version) for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    version = opsets.get("", 0)
    if not 1 <= version <= newest:
        raise ValueError(
            f"it states opset {version or 'none'} of ONNX; 1 to {newest} are known to onnx {onnx.__version__}"
        )
    return opsets


def _write_out_functions(model: ModelProto) -> None:
    """Put the nodes of functions where they are called, unless they would be too many."""
    branching = sum(1 for node in walk_nodes(model.graph) for _ in inner_graphs(node))
    if branching > _MAX_INNER:
        raise ValueError(f"it has {branching} branches and bodies; {_MAX_INNER} are allowed")
    nodes = sum(1 for _ in walk_nodes(model.graph))
    if model.functions:
        from onnx import inliner

        sizes = _size_functions(model.functions)
        nodes += sum(sizes.get(_key_of(node), 0) for node in walk_nodes(model.graph))
        if nodes <= MAX_NODES:
            model.CopyFrom(inliner.inline_local_functions(model))
    if nodes > MAX_NODES:
        raise ValueError(f"it has {nodes} nodes, functions written out; {MAX_NODES} are allowed")


def _key_of(node: NodeProto) -> tuple[str, str, str]:
    return node.domain, node.op_type, node.overload


def _size_functions(functions: Sequence[FunctionProto]) -> dict[tuple[str, str, str], int]:
    """Nodes of each function, written out."""
    bodies = {(one.domain, one.name, one.overload): one for one in functions}
    sizes: dict[tuple[str, str, str], int] = {}
    waiting = list(bodies)
    begun: set[tuple[str, str, str]] = set()
    while waiting:
        key = waiting[-1]
        called = [_key_of(node) for node in walk_nodes(bodies[key]) if _key_of(node) in bodies]
        missing = [one for one in called if one not in sizes]
        if key in sizes or not missing:
            sizes[key] = sum(1 for _ in walk_nodes(bodies[key])) + sum(sizes[one] for one in called)
            waiting.pop()
        elif key in begun:
            raise ValueError(f"its function {show_value(key[1])} calls itself")
        else:
            begun.add(key)
            waiting += dict.fromkeys(missing)
    return sizes


def _check_graph(graph: GraphProto, outer: tuple[set[str], ...], opsets: Mapping[str, int]) -> None:
    """Check names, tensors and nodes; `outer`: what graphs around it know, which an inner graph may read."""
    if len(outer) > _MAX_DEPTH:
        raise ValueError(f"it has branches nested deeper than {_MAX_DEPTH} times")
    if graph.sparse_initializer:
        raise ValueError("it has sparse tensors, which are not read here; store them dense")
    inputs = [value.name for value in graph.input]
    constants = [tensor.name for tensor in graph.initializer]
    _require_once(
        (*dict.fromkeys((*inputs, *constants)), *(name for node in graph.node for name in node.output if name))
    )
    for listed in (inputs, constants):
        _require_once(listed)
    for tensor in graph.initializer:
        check_tensor(tensor)
    _put_in_order(graph)
    known = {*inputs, *constants}
    scopes = (known, *outer)
    for node in graph.node:
        for name in (*node.input, *names_read_inside(node)):
            if name and not any(name in scope for scope in scopes):
                raise ValueError(f"node {_title(node)} reads {show_value(name)}, which nothing makes")
        _check_node(node, opsets)
        for inner in inner_graphs(node):
            _check_graph(inner, scopes, opsets)
        known.update(node.output)
    for value in graph.output:
        if not any(value.name in scope for scope in scopes):
            raise ValueError(f"nothing makes its output {show_value(value.name)}")


def _require_once(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ValueError("a tensor of it has no name")
        if name in seen:
            raise ValueError(f"the name {show_value(name)} is given twice")
        seen.add(name)


def _put_in_order(graph: GraphProto) -> None:
    nodes = list(graph.node)
    ordered = sort_nodes(nodes)
    if any(one is not other for one, other in zip(nodes, ordered, strict=True)):
        set_nodes(graph, ordered)


def _title(node: NodeProto) -> str:
    return f"{show_value(node.name or (node.output[0] if node.output else ''))} ({show_value(node.op_type)[1:-1]})"


class _Schema(NamedTuple):
    """What an operator takes."""

    needed: tuple[int, ...]
    """Places of inputs that must be there."""
    max_inputs: int
    outputs: range
    """How many there may be."""
    attributes: dict[str, tuple[bool, int]]
    """Whether each must be there, and its type."""


@functools.cache
def find_schema(op_type: str, opset: int) -> OpSchema | None:
    """What ONNX says of its own operator in that version; None where there is none of that name."""
    from onnx import defs

    return defs.get_schema(op_type, opset, "") if defs.has(op_type, opset, "") else None


@functools.cache
def _read_schema(op_type: str, opset: int) -> _Schema | None:
    """None where the operators of that version have no such one."""
    import onnx

    schema = find_schema(op_type, opset)
    if schema is None:
        return None
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return _Schema(
        needed=tuple(
            place
            for place, one in enumerate(schema.inputs)
            if one.option != optional and (one.option != variadic or place < schema.min_input)
        ),
        max_inputs=schema.max_input,
        outputs=range(schema.min_output, schema.max_output + 1),
        attributes={
            name: (one.required, one.type.value)  # type: ignore[attr-defined]
            for name, one in schema.attributes.items()
        },
    )


def _check_node(node: NodeProto, opsets: Mapping[str, int]) -> None:
    for attribute in node.attribute:
        fault = _find_attribute_fault(node, attribute)
        if fault:
            raise ValueError(f"node {_title(node)}: its attribute {show_value(attribute.name)} {fault}")
    if node.domain in OWN_DOMAINS:
        fault = _find_node_fault(node, opsets[""])
    else:
        fault = "" if node.domain in opsets else f"is of the domain {show_value(node.domain)}, which is not imported"
    if fault or not any(node.output):
        raise ValueError(f"node {_title(node)} {fault or 'makes nothing'}")


def _find_node_fault(node: NodeProto, opset: int) -> str:
    """What an operator of ONNX lacks or has too much of; empty if nothing."""
    schema = _read_schema(node.op_type, opset)
    if schema is None:
        return f"is not an operator of opset {opset}"
    missing = [place for place in schema.needed if place >= len(node.input) or not node.input[place]]
    if missing or len(node.input) > schema.max_inputs:
        return f"has {len(node.input)} inputs, and {'lacks' if missing else 'takes'} {missing or schema.max_inputs}"
    if len(node.output) not in schema.outputs:
        return f"has {len(node.output)} outputs; {schema.outputs.start} to {schema.outputs.stop - 1} are due"
    present = {attribute.name: int(attribute.type) for attribute in node.attribute}
    if len(present) < len(node.attribute):
        return "has an attribute twice"
    unknown = [name for name in present if name not in schema.attributes]
    if unknown:
        return f"has an attribute {show_value(unknown[0])}, which its operator does not know"
    for name, (required, kind) in schema.attributes.items():
        if required and name not in present:
            return f"has no attribute {name!r}, which it needs"
        if present.get(name, kind) != kind:
            return f"has an attribute {name!r} of another type than it takes"
    return ""


def _find_attribute_fault(node: NodeProto, attribute: AttributeProto) -> str:
    """What is wrong with an attribute by itself; empty if nothing is.

    Raises:
        ValueError: of a tensor in it.
    """
    if attribute.ref_attr_name:
        return "refers to that of a function"
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        return "is a sparse tensor, which is not read here; store it dense"
    if attribute.HasField("t"):
        check_tensor(attribute.t)
    for tensor in attribute.tensors:
        check_tensor(tensor)
    if node.domain not in OWN_DOMAINS:
        return ""
    if attribute.name not in _ANY_NUMBER:
        least = 1 if attribute.name in _POSITIVE else -_LARGEST
        for number in (*attribute.ints, attribute.i) if attribute.HasField("i") else attribute.ints:
            if not least <= number <= _LARGEST:
                return f"holds {number}; {least} to {_LARGEST} are allowed"
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode("utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    return ""
