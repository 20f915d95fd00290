"""An ONNX file before it is parsed: how much a parser would make of it, and whether its names are text.

A parser makes a message of a hundred bytes of two, and takes bytes for text that are none. So the file is walked once
as it lies there, field by field; the data of tensors is skipped.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]

MAX_FIELDS = 1_000_000
"""Fields of all messages together: 10 times those of RRDBNet with 23 blocks as old exporters write it."""
_MAX_DEPTH = 100  # protobuf's own
_MAX_PACKED = 2**26  # bytes of integers, each of which takes up to eight times its length in memory
_PACKED = frozenset({"int32_data", "int64_data", "uint64_data"})
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STRING = 9  # of descriptors


def check_wire(content: bytes) -> None:
    r"""Refuse what would take far more memory than it has bytes, and text that is not UTF-8.

    What no parser takes is left to the parser, which says so.

    Args:
        content: a serialized `onnx.ModelProto`.

    Raises:
        ValueError: the message says what, as in `its text 'a\xff' is not UTF-8`.
    """
    import onnx

    with contextlib.suppress(IndexError):  # it ends in the middle of a field
        _walk(content, onnx.ModelProto.DESCRIPTOR)


def _walk(content: bytes, descriptor: Descriptor) -> None:
    kinds = _list_kinds(descriptor)
    end = len(content)
    above: list[tuple[int, dict[int, tuple[Descriptor | None, str]]]] = []
    at = fields = packed = 0
    while True:
        while at >= end:
            if not above:
                return
            end, kinds = above.pop()
        fields += 1
        if fields > MAX_FIELDS or packed > _MAX_PACKED:
            what = f"{MAX_FIELDS} fields" if fields > MAX_FIELDS else f"{_MAX_PACKED >> 20} MiB of integers"
            raise ValueError(f"it has more than {what}, far more than any network")
        # Most tags and lengths have one byte.
        tag, at = (content[at], at + 1) if content[at] < 0x80 else _read_varint(content, at)
        wire = tag & 7
        if wire == _VARINT:
            at = at + 1 if content[at] < 0x80 else _read_varint(content, at)[1]
        elif wire == _BYTES:
            length, at = (content[at], at + 1) if content[at] < 0x80 else _read_varint(content, at)
            message, kind = kinds.get(tag >> 3, (None, ""))
            if at + length > end or len(above) > _MAX_DEPTH:
                return
            if message is not None:
                above.append((end, kinds))
                end, kinds = at + length, _list_kinds(message)
                continue
            if kind == "text":
                _check_text(content[at : at + length])
            elif kind == "packed":
                packed += length
            at += length
        elif wire in (_FIXED32, _FIXED64):
            at += 8 if wire == _FIXED64 else 4
        else:
            return


@functools.cache
def _list_kinds(descriptor: Descriptor) -> dict[int, tuple[Descriptor | None, str]]:
    """By number: the message that a field holds, and whether it is `text` or `packed` else."""
    kinds = {}
    for field in descriptor.fields:
        kind = "text" if field.type == _STRING else "packed" if field.name in _PACKED else ""
        kinds[field.number] = (field.message_type, kind)
    return kinds


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return number, at


def _check_text(text: bytes) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"its text {ascii(text[:60])[1:]} is not UTF-8") from None
