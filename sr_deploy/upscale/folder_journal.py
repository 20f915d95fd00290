"""The journal of a folder job: which results are finished, of which sources, by which network and settings.

A file of lines in the folder of the results, one JSON object each, appended when a file is begun and when it is
finished. A line that a kill cut short is ignored. What is begun and not finished is done again. Files that the
journal does not list are not replaced.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter

from sr_deploy.errors import InputError, OutputError, PlaceLostError, UnsafePathError
from sr_deploy.files import KeptFolder, output_error, remove_partial_files, sha256_of, write_text
from sr_deploy.locks import hold_lock
from sr_deploy.untrusted import check_relative, find_inside, open_for_appending, open_regular, parse_json, refuse_link

JOURNAL_NAME = ".sr-deploy-upscale.jsonl"
"""Name of the journal in the folder of the results."""
_VERSION = 2
"""1 called `config_hash` `made_by`."""


@dataclass(frozen=True)
class Stamp:
    """What tells two states of a file apart."""

    size: int
    """In bytes."""
    modified_ns: int
    """When it was last changed, in nanoseconds since 1970."""


@dataclass(frozen=True)
class JournalEntry:
    """One result."""

    target: str
    """Path within the folder of the results."""
    source: str
    """Path within the folder of the sources."""
    source_sha256: str = ""
    """Of the source's bytes; empty: begun, not finished."""
    source_stamp: Stamp | None = None
    """The source when it was read."""
    target_stamp: Stamp | None = None
    """The result when it was written."""
    config_hash: str = ""
    """Hash of network, backend and settings."""

    @property
    def finished(self) -> bool:
        """Whether the result was written whole."""
        return bool(self.source_sha256)


class FolderJournal:
    """The journal, open for appending. Threads may share it."""

    def __init__(self, folder: Path, entries: dict[str, JournalEntry]) -> None:
        """`folder`: of the results; `entries`: by target."""
        self._lock = threading.Lock()
        self._folder = folder
        self.kept = KeptFolder(folder)
        """The folder of the results."""
        self._entries = entries

    def is_finished(self, source: Path, target: Path, config_hash: str) -> bool:
        """Whether the result stands, of this source as it is now, of the same `config_hash`.

        A source with another date is read: if its bytes are the same, nothing needs to be done.
        """
        entry = self._entries.get(self._name(target))
        if entry is None or not entry.finished or entry.config_hash != config_hash:
            return False
        if stamp_of(target) != entry.target_stamp:
            return False
        stamp = stamp_of(source)
        if stamp == entry.source_stamp:
            return True
        if stamp is None or entry.source_stamp is None or stamp.size != entry.source_stamp.size:
            return False
        try:
            same = sha256_of(source) == entry.source_sha256
        except OSError:
            return False  # who reads it next says why not
        if not same:
            return False
        self._append(replace(entry, source_stamp=stamp))
        return True

    def is_foreign(self, target: Path) -> bool:
        """Whether something stands there that no job of this folder wrote."""
        return target.exists() and self._name(target) not in self._entries

    def begin(self, source: str, target: Path) -> None:
        """Note that `target` is going to be written."""
        self._append(JournalEntry(target=self._name(target), source=source))

    def finish(self, source: str, target: Path, sha256: str, stamp: Stamp, config_hash: str) -> None:
        """Note that `target` is written, of a source with that hash and stamp."""
        self._append(JournalEntry(self._name(target), source, sha256, stamp, stamp_of(target), config_hash))

    def _name(self, target: Path) -> str:
        return target.relative_to(self._folder).as_posix()

    def _append(self, entry: JournalEntry) -> None:
        path = self._folder / JOURNAL_NAME
        self.kept.require()
        try:
            with self._lock, open_for_appending(path) as stream:
                self._entries[entry.target] = entry
                stream.write(json.dumps(asdict(entry)) + "\n")
        except OSError as error:  # a result that is not in the journal is never skipped
            raise PlaceLostError(str(output_error(path, error))) from error


@contextlib.contextmanager
def open_journal(folder: Path) -> Iterator[FolderJournal]:
    """Open the journal of a folder of results, or begin one; one process at a time.

    What a killed job left half-written is removed first.

    Raises:
        LockedError: another process is writing into this folder.
        InputError: the journal is of another version.
        UnsafePathError: a link has its name.
        OutputError: it cannot be written.
    """
    path = refuse_link(folder / JOURNAL_NAME)
    with hold_lock(folder / f"{JOURNAL_NAME}.lock", folder):
        entries = _read_entries(path)
        _clean(folder, entries)
        # Written anew: one line for each result, and no line cut short in the middle.
        lines = [json.dumps({"version": _VERSION}), *(json.dumps(asdict(entry)) for entry in entries.values())]
        write_text(path, "\n".join(lines) + "\n")
        yield FolderJournal(folder, entries)


def _clean(folder: Path, targets: Iterable[str]) -> None:
    """Remove what a killed job left half-written, only where jobs of ours wrote."""
    remove_partial_files(folder)
    for place in {PurePosixPath(target).parent for target in targets} - {PurePosixPath()}:
        with contextlib.suppress(UnsafePathError):  # what lies behind a link that leads out is not ours to clean
            remove_partial_files(find_inside(folder, str(place)))


def stamp_of(path: Path) -> Stamp | None:
    """Size and date of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


def _read_entries(path: Path) -> dict[str, JournalEntry]:
    try:
        with open_regular(path) as stream:
            lines = stream.read().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    entries: dict[str, JournalEntry] = {}
    adapter = TypeAdapter(JournalEntry)
    for line in lines:
        try:
            document = parse_json(line, any_text=True)
            if isinstance(document, dict) and "version" in document:
                _require_version(path, document["version"])
                continue
            entry = adapter.validate_python(document)
            check_relative(entry.target)
        except ValueError:
            continue  # cut short by a kill, or damaged: that result is computed again
        entries[entry.target] = entry
    return entries


def _require_version(path: Path, version: object) -> None:
    if version != _VERSION:
        raise InputError(
            f"{path} was written by another version of sr-deploy (journal {version}, this one writes {_VERSION}); "
            "choose another folder for the results"
        )
