"""Damage to bytes and to JSON documents, drawn from a seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

_BYTES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"%n{}",
    b"\x1b[2J",
)
_NUMBERS = (0, 1, -1, 2, 3, 64, 255, 2**16, 2**31, -(2**31), 2**53 + 1, 2**63, 10**30, 0.5, -0.0, 1e-300, 1e308)
_TEXTS = (
    "", "x", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero", ".", "a/b", "a\\b", "\x00", "\x1b[31mred",
    "[/b]{0}%s",
    "fp32", "fp16", "int8", "NaN", "Infinity", "-1", "0" * 64, "f" * 64, "x" * 5000, "\ud800", "ph \U0001f600",
    "\u202etxt",
    "engines/0123456789abcdef.engine", "model.fp32.onnx", "bundle.json", "2026-01-01T00:00:00", "con", "1e400",
)  # fmt: skip


def damage_bytes(draw: random.Random, content: bytes, *, head: int | None = None) -> bytes:
    """Change, remove or add some bytes.

    Args:
        draw: decides.
        content: what to damage; may be empty.
        head: damage only so many first bytes; None: anywhere.
    """
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8, 32))):
        end = min(len(data), head or len(data))
        if not end:
            return bytes(data)
        at, length = draw.randrange(end), draw.choice((1, 1, 2, 4, 8, 64))
        what = draw.randrange(7)
        if what == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            data[at : at + length] = draw.randbytes(length)
        elif what == 2:
            value = draw.choice(_BYTES)
            data[at : at + len(value)] = value
        elif what == 3:
            del data[at : at + length]
        elif what == 4:
            source = draw.randrange(end)
            data[at:at] = data[source : source + length]
        elif what == 5:
            data[at : at + 4] = draw.choice((0, 1, 2, 0xFFFF, 0x10000, 2**31 - 1, 2**32 - 1)).to_bytes(4, "little")
        elif draw.random() < 0.3:
            del data[at:]
    return bytes(data)


def damage_json(draw: random.Random, document: object) -> object:
    """A copy of a document with one to five places changed, taken away or put elsewhere."""
    changed = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        places = list(_list_places(changed))
        if not places:
            return changed
        holder, key = draw.choice(places)
        what = draw.randrange(8)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif what == 1:
            holder[draw.choice(_TEXTS)] = copy.deepcopy(holder[key])
        elif what == 2:
            other, name = draw.choice(places)
            holder[key] = (
                copy.deepcopy(other[name]) if name in other or (isinstance(other, list) and name < len(other)) else None
            )
        elif what == 3 and isinstance(holder[key], str):
            holder[key] = _damage_text(draw, holder[key])
        elif what == 3 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * draw.choice((0, -1, 2, 0.5, 1000)) + draw.choice((0, 1, -1))
        elif what == 4:
            holder[key] = draw.choice(([], {}, None, True, [[]], {"": 0}, _nest(draw.choice((3, 40, 200)))))
        else:
            holder[key] = draw.choice((*_NUMBERS, *_TEXTS))
    return changed


def write_json(draw: random.Random, document: object) -> bytes:
    """JSON text of a document; at times with what is not JSON in it."""
    text = json.dumps(document)
    roll = draw.random()
    if roll < 0.05:
        text = text.replace(
            str(draw.randrange(10)), draw.choice(("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000)), 1
        )
    elif roll < 0.08:
        text = text.replace("{", '{"schema_version": 1, "schema_version": 2, ', 1)
    elif roll < 0.1:
        text = "[" * draw.choice((500, 100_000)) + text
    content = text.encode("utf-8", "surrogatepass")
    return damage_bytes(draw, content) if roll > 0.9 else content


def _list_places(document: Any) -> Any:
    """Every value inside, as what holds it and its key there."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def _damage_text(draw: random.Random, text: str) -> str:
    if not text or draw.random() < 0.3:
        return text + draw.choice(_TEXTS)
    at = draw.randrange(len(text))
    return text[:at] + draw.choice((chr(draw.randrange(1, 0x2FF)), "", text)) + text[at + 1 :]


def _nest(depth: int) -> object:
    nested: object = 0
    for _ in range(depth):
        nested = [nested]
    return nested
