"""Damaged and hostile ONNX files, each made from a seed: sound graphs that are changed field by field or byte by byte,
and graphs that ask for too much.

`make_case(seed)` gives the same name and bytes for the same seed, whatever came before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto

from tests.fuzz.onnx_blown_up import BLOWN_UP
from tests.fuzz.onnx_graphs import BASES

_NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 65536, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, 0.5, 1e30, -1e30, 1e-30, float("nan"), float("inf"))
_TEXTS = (
    b"",
    b"x",
    b"y",
    b"../../etc/passwd",
    b"a\xff\xfe",
    b"\x1b[31m",
    b"{0}[/b]%s",
    b"NOTSET",
    b"SAME_UPPER",
    b"c" * 70000,
)
_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


def make_case(seed: int) -> tuple[str, bytes]:
    """One file. The name says what was done to which graph."""
    draw = random.Random(seed)
    if draw.random() < 0.15:
        name = draw.choice(sorted(BLOWN_UP))
        return f"{name}-{seed}", _serialize(BLOWN_UP[name](draw))
    base = draw.choice(sorted(BASES))
    model = BASES[base]()
    if draw.random() < 0.25:
        return f"{base}-bytes-{seed}", _damage_bytes(draw, model.SerializeToString())
    done = [_change_model(draw, model) for _ in range(draw.choice((1, 1, 1, 2, 3, 5)))]
    return f"{base}-{'-'.join(done)[:80]}-{seed}", _serialize(model)


def make_cases(first: int, count: int) -> Iterator[tuple[str, bytes]]:
    """As many files, of the seeds from `first` on."""
    for seed in range(first, first + count):
        yield make_case(seed)


def _serialize(model: onnx.ModelProto) -> bytes:
    return model.SerializePartialToString()


def _damage_bytes(draw: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at, length = draw.randrange(len(data) or 1), draw.choice((1, 2, 8, 64))
        what = draw.randrange(6)
        if what == 0 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            data[at : at + length] = draw.randbytes(length)
        elif what == 2:
            del data[at : at + length]
        elif what == 3:
            data[at:at] = data[at // 2 : at // 2 + length]
        elif what == 4:
            data[at:at] = bytes((0xFF,)) * length
        else:
            del data[max(at, 16) :]
    return bytes(data)


def _change_model(draw: random.Random, model: onnx.ModelProto) -> str:
    """One change in place, and its name."""
    graph = model.graph
    special = draw.randrange(8)
    if special == 0 and graph.node:
        draw.choice(graph.node).op_type = op = draw.choice(_OPERATORS)
        return op
    if special == 1 and graph.node:
        names = [name for node in graph.node for name in (*node.input, *node.output)]
        node = draw.choice(graph.node)
        values = node.input if draw.random() < 0.7 and node.input else node.output
        if values:
            values[draw.randrange(len(values))] = draw.choice(names)
        return "rewire"
    if special == 2 and graph.initializer:
        tensor = draw.choice(graph.initializer)
        tensor.data_location = TensorProto.EXTERNAL
        place = draw.choice(("../secret", "/etc/passwd", "beside.bin", "/dev/zero", "a/../../b", "", "."))
        for key, value in (("location", place), ("offset", str(draw.choice(_NUMBERS))), ("length", "9" * 30)):
            if draw.random() < 0.8:
                tensor.external_data.add(key=key, value=value)
        return "external"
    return _change_field(draw, draw.choice(list(_walk(model))))


def _walk(message: Message) -> Iterator[Message]:
    """The message and all inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if _is_repeated(field) else (value,):
                yield from _walk(inner)


def _is_repeated(field: FieldDescriptor) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED


def _change_field(draw: random.Random, message: Message) -> str:
    name = message.DESCRIPTOR.name.removesuffix("Proto").lower()
    present = [field for field, _ in message.ListFields()]
    # Fields that are there most of the time; now and then one that is not.
    field = draw.choice(present if present and draw.random() < 0.8 else list(message.DESCRIPTOR.fields))
    if draw.random() < 0.15:
        message.ClearField(field.name)
        return f"{name}.{field.name}-cleared"
    if _is_repeated(field):
        _change_list(draw, message, field)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        _set_value(draw, message, field)
    return f"{name}.{field.name}"


def _change_list(draw: random.Random, message: Message, field: FieldDescriptor) -> None:
    values = getattr(message, field.name)
    holds_messages = field.type == FieldDescriptor.TYPE_MESSAGE
    what = draw.choice(("add", "repeat", "remove", "mix")) if values else "add"
    if what == "remove":
        del values[draw.randrange(len(values))]
    elif holds_messages and what == "mix":
        values.sort(key=lambda _: draw.random())
    elif holds_messages:
        added = values.add()
        if what == "repeat":
            added.CopyFrom(draw.choice(values))
    elif field.type == FieldDescriptor.TYPE_STRING and what == "repeat":
        _set_text(message, field, draw.choice(_TEXTS))
    elif what == "mix":
        values[draw.randrange(len(values))] = _draw_value(draw, field)
    else:
        values.append(_draw_value(draw, field))


def _draw_value(draw: random.Random, field: FieldDescriptor) -> object:
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return draw.choice(_FLOATS)
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw.choice(_TEXTS).decode(errors="replace")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw.choice((*_TEXTS, draw.randbytes(draw.choice((1, 4, 64)))))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw.choice([one.number for one in field.enum_type.values])
    bits = 31 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32,) else 63
    signed = draw.choice(_NUMBERS) if draw.random() < 0.7 else draw.randrange(-4, 40)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_UINT32):
        return abs(signed) % 2**bits
    return max(min(signed, 2**bits - 1), -(2**bits))


def _set_value(draw: random.Random, message: Message, field: FieldDescriptor) -> None:
    if field.type == FieldDescriptor.TYPE_STRING:
        _set_text(message, field, draw.choice(_TEXTS))
    else:
        setattr(message, field.name, _draw_value(draw, field))


def _set_text(message: Message, field: FieldDescriptor, text: bytes) -> None:
    """Text that need not be UTF-8, which only the bytes of a message let in."""
    message.MergeFromString(_varint(field.number << 3 | 2) + _varint(len(text)) + text)


def _varint(number: int) -> bytes:
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    return bytes((*coded, number))
