"""Engines are code. Which of them may be opened: those that this user built, and others if he says so.

TensorRT runs what an engine holds, on the GPU and, in some engines, on the CPU: whoever made one decides what is run.
So `build` and `export` enter each engine that they make into a registry in the user's cache folder, by the SHA-256 of
its bytes, and the only door to an SDK's deserializer (`backends/tensorrt/open_engine.py`) looks there. What builders
and runners keep beside engines to start faster is code likewise and stands in the same registry.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Literal

from sr_deploy.bundle.records import EngineRecord, Record, Sha256
from sr_deploy.cache import keep, kept_path, read_kept

KIND = "built"
"""Under which the registry lies in the cache folder."""


@dataclass(frozen=True)
class EngineTrust:
    """What a user allows beyond the engines that he built himself."""

    elsewhere: bool = False
    """Open engines that were built elsewhere: run the code of whoever built them."""
    host_code: bool = False
    """Let version-compatible engines run the code for the CPU that they carry: TensorRT's own runtime, if nobody put
    something else into its place."""


BUILT_HERE = EngineTrust()
"""Only what this user built."""


class BuiltHere(Record):
    """An entry of the registry."""

    schema_version: Literal[1] = 1
    """Raised when a reader of an older version could misread the file."""
    sha256: Sha256
    """Of the bytes that were built or learnt here."""
    record_sha256: Sha256 | None = None
    """Of the engine's record as it was written; None for a cache, and for an engine that was built elsewhere and that
    the user trusts: it may be opened, and nothing is known of what it was built from."""


def register_engine(record: EngineRecord) -> str:
    """Enter an engine that was built here; returns a note for people: empty, or why it could not be entered."""
    return _enter(record.engine.sha256, _hash_record(record))


def adopt_engine(record: EngineRecord) -> str:
    """Enter an engine that others built and that the user trusts; returns a note, as `register_engine`."""
    return _enter(record.engine.sha256, None)


def register_bytes(content: bytes) -> str:
    """Enter a cache that a builder or a runner wrote here; returns a note, as `register_engine`."""
    return _enter(hashlib.sha256(content).hexdigest(), None)


def were_made_here(content: bytes) -> bool:
    """Whether these bytes stand in the registry."""
    return _find(hashlib.sha256(content).hexdigest()) is not None


def was_built_here(record: EngineRecord) -> bool:
    """Whether an engine stands in the registry as built here, with a record that says what this one says."""
    entry = _find(record.engine.sha256)
    return entry is not None and entry.record_sha256 == _hash_record(record)


def was_adopted(record: EngineRecord) -> bool:
    """Whether an engine stands in the registry as one of others that the user trusts."""
    entry = _find(record.engine.sha256)
    return entry is not None and entry.record_sha256 is None


def why_not_trusted(record: EngineRecord, trust: EngineTrust) -> str | None:
    """Why an engine may not be opened, in words that go on from its file name; None if it may."""
    if not trust.elsewhere and _find(record.engine.sha256) is None:
        return "was not built here, and an engine is code; build it again, or trust who built it with --trust-engine"
    if record.flags.get("version_compatible") == "on" and not trust.host_code:
        return (
            "is version-compatible, so it carries code for the CPU; allow that with --engine-host-code, or build it "
            "again without --version-compatible"
        )
    return None


def _enter(sha256: str, record_sha256: str | None) -> str:
    note = keep(KIND, sha256, BuiltHere(sha256=sha256, record_sha256=record_sha256))
    return f"it will not be opened without --trust-engine: {note}" if note else ""


def _find(sha256: str) -> BuiltHere | None:
    entry, _ = read_kept(KIND, sha256, BuiltHere)
    return entry if entry is not None and entry.sha256 == sha256 and _is_own(sha256) else None


def _is_own(sha256: str) -> bool:
    """Whether an entry is of this user or of the administrator: a cache folder may be shared."""
    if not hasattr(os, "geteuid"):
        return True
    return kept_path(KIND, sha256).stat().st_uid in (0, os.geteuid())


def _hash_record(record: EngineRecord) -> str:
    # Without defaults: fields that come later must not make it another one.
    return hashlib.sha256(record.model_dump_json(exclude_defaults=True).encode()).hexdigest()
