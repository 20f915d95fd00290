"""A folder that engines are kept in: that of a bundle, or one beside an ONNX file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.bundle.documents import check_file, read_record
from sr_deploy.bundle.records import ENGINES_FOLDER, EngineRecord
from sr_deploy.errors import BundleError, DamagedBundleError
from sr_deploy.files import output_error, remove_partial_files, replacing_file, write_text
from sr_deploy.locks import LOCK_NAME, hold_lock
from sr_deploy.untrusted import find_inside, open_regular, refuse_link

CACHES_FOLDER = "caches"
_MAX_CACHE_BYTES = 2**30

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class EngineFolder:
    """A folder that engines are kept in, with what builders and runners learnt of them."""

    path: Path
    """The folder; it may not be there before the first engine is."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder while something is added to it; what a killed process left half-written goes first.

        Raises:
            LockedError: another process holds it.
            OutputError: it cannot be written.
            BundleError: the folder of engines is a link that leads elsewhere.
        """
        try:
            with hold_lock(self.path / LOCK_NAME, self.path):
                for place in (self.path, find_inside(self.path, ENGINES_FOLDER, DamagedBundleError)):
                    remove_partial_files(place)
                yield
        finally:
            with contextlib.suppress(OSError):  # that of an ONNX file, and nothing was built
                self.path.rmdir()

    def engines(self) -> tuple[EngineRecord, ...]:
        """Records of the engines that were built, each with its engine file in place and unchanged.

        Raises:
            BundleError: a record or an engine is damaged.
        """
        return tuple(map(self.read_engine, self._list_records()))

    def intact_engines(self) -> tuple[EngineRecord, ...]:
        """As `engines`, without those whose record or file is damaged: building makes them anew.

        Raises:
            BundleError: the folder of engines is a link that leads elsewhere.
        """
        records = []
        for name in self._list_records():
            with contextlib.suppress(BundleError):
                records.append(self.read_engine(name))
        return tuple(records)

    def _list_records(self) -> list[str]:
        folder = find_inside(self.path, ENGINES_FOLDER, DamagedBundleError)
        names = (path.name for path in sorted(folder.glob("*.json")))
        return [f"{ENGINES_FOLDER}/{name}" for name in names if not name.startswith(".")]  # one is half-written

    def read_engine(self, name: str) -> EngineRecord:
        """The record `name`, as in `engines/0123456789abcdef.json`, whose engine is in place and unchanged.

        Raises:
            BundleError: the record or the engine is damaged, or something else.
        """
        path = find_inside(self.path, name, DamagedBundleError)
        record = read_record(path, EngineRecord)
        if path.stem != record.key:
            raise DamagedBundleError(f"{path} is the record of {record.engine.file}; run: sr-deploy build {self.path}")
        check_file(self.path, record.engine)
        return record

    def add_engine(self, record: EngineRecord, engine: bytes) -> Path:
        """Add an engine, and its record after it, so that a record never stands without its engine."""
        path = find_inside(self.path, record.engine.file, DamagedBundleError)
        with replacing_file(path) as temporary:
            temporary.write_bytes(engine)
        write_text(path.with_suffix(".json"), record.model_dump_json(indent=2) + "\n")
        return path

    def cache(self, name: str) -> Path:
        """Where a builder or a runner keeps what it learnt, so that the next one starts faster; may not be there yet.

        Caches are no part of what is hashed and certified: a lost or damaged one costs time and nothing else.

        Raises:
            BundleError: the place is a link that leads out of the folder.
        """
        return find_inside(self.path, f"{CACHES_FOLDER}/{name}", DamagedBundleError)

    def read_cache(self, name: str) -> bytes:
        """The bytes of a cache; empty if there is none that can be read.

        Raises:
            BundleError: as `cache`.
        """
        try:
            with open_regular(self.cache(name)) as stream:
                content = stream.read(_MAX_CACHE_BYTES + 1)
                return content if len(content) <= _MAX_CACHE_BYTES else b""
        except OSError:
            return b""

    def write_cache(self, name: str, content: bytes) -> None:
        """Keep a cache, whole or not at all.

        Raises:
            OutputError: it cannot be written.
            LockedError: another process is writing one, for longer than any takes.
            BundleError: as `cache`.
        """
        path = self.cache(name)
        with hold_lock(path.with_name(LOCK_NAME), path.parent, patience=_PATIENCE_SECONDS):
            remove_partial_files(path.parent)
            with replacing_file(path) as temporary:
                temporary.write_bytes(content)

    def remove_engine(self, record: EngineRecord) -> None:
        """Remove an engine and its caches; the record goes before its engine.

        Raises:
            OutputError: one cannot be removed.
            BundleError: a link leads out of the folder; nothing is removed.
        """
        path = find_inside(self.path, record.engine.file, DamagedBundleError)
        cache = self.cache(runtime_cache_name(record))
        try:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            cache.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(path, error) from error


def engines_of_graph(graph: Path) -> EngineFolder:
    """Where the engines of an ONNX file go that is in no bundle: `FILE.engines/` beside `FILE.onnx`.

    Raises:
        BundleError: that place is a link.
    """
    return EngineFolder(refuse_link(graph.with_suffix(".engines"), DamagedBundleError))


def runtime_cache_name(record: EngineRecord) -> str:
    """Name of the cache of kernels that TensorRT-RTX compiled for an engine where it ran."""
    return f"{record.key}.runtime"
