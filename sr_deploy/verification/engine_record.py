"""What an engine's record and header say, held against each other and against a new build's. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from sr_deploy.backends.registry import get_builder
from sr_deploy.bundle import EngineRecord, engine_key
from sr_deploy.legible import show_value

_KNOWN_HEADER = bytes(4)
"""Stands behind the tag where the header is known: the file's length and the builder's version follow."""
_LENGTH, _VERSION = slice(16, 24), slice(24, 28)
_TOLD_APART = 3
"""Numbers of a version that are compared: a header has a byte for each, and builds are counted beyond that."""
_DECLARED = ("declared", "layer_precisions", "convolution_precisions", "multiply_add_shares")


def list_contradictions(record: EngineRecord) -> Iterator[str]:
    """What a record says that cannot be true of itself."""
    key = engine_key(
        graph_sha256=record.graph_sha256,
        backend=record.backend,
        backend_version=record.backend_version,
        target=record.target,
        profiles=record.profiles,
        flags=record.flags,
    )
    if key != record.key:
        yield f"its record has the key {record.key}, and its fields make {key}: the record was changed"


def list_damage(record: EngineRecord, engine: bytes) -> Iterator[str]:
    """What is wrong with the header of an engine; no builder is asked."""
    builder = get_builder(record.backend)
    tag = builder.tag
    if not engine.startswith(tag):
        yield f"does not begin as engines of {record.backend} do: it is damaged or something else"
        return
    if engine[len(tag) :][: len(_KNOWN_HEADER)] != _KNOWN_HEADER:
        return
    length, version = int.from_bytes(engine[_LENGTH], "little"), list(map(str, engine[_VERSION]))
    if builder.states_length and length != len(engine):
        yield f"says that it has {length} bytes, and the file has {len(engine)}: it is truncated or damaged"
    if record.backend_version.split(".")[:_TOLD_APART] != version[:_TOLD_APART]:
        yield f"is recorded as built by {record.backend} {record.backend_version}, and says {'.'.join(version)} itself"


def list_misstatements(record: EngineRecord, due: EngineRecord) -> Iterator[str]:
    """What a record states of its layers where a new build of the graph states something else, one line for each kind.

    What an older sr-deploy left out is no misstatement.
    """
    for name in _DECLARED:
        stated, wanted = getattr(record, name), getattr(due, name)
        wrong = sorted(key for key in stated.keys() | wanted.keys() if stated.get(key) != wanted.get(key))
        if stated and wrong:
            seen, right = (show_value(values.get(wrong[0])) for values in (stated, wanted))
            yield f"its record states {name} of {show_value(wrong[0])} as {seen} where {right} is due"
