"""Bundles on disk: made in one step, checked at every opening."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sr_deploy.backends import Precision
from sr_deploy.bundle.certificate import Certificate
from sr_deploy.bundle.records import EngineRecord, FileRecord, Manifest
from sr_deploy.errors import BundleError, DamagedBundleError
from sr_deploy.files import output_error, replacing_file, replacing_folder, sha256_of, write_text

MANIFEST_NAME = "bundle.json"
CERTIFICATE_NAME = "certificate.json"
PAGE_NAME = "certificate.html"
ENGINES_FOLDER = "engines"
CACHES_FOLDER = "caches"
REFERENCE_NAME = "generator.safetensors"

RecordModel = TypeVar("RecordModel", bound=BaseModel)


@dataclass(frozen=True)
class EngineFolder:
    """A folder that engines are kept in, with what builders and runners learnt of them."""

    path: Path
    """The folder; it may not be there before the first engine is."""

    def engines(self) -> tuple[EngineRecord, ...]:
        """Records of the engines that were built, each with its engine file in place and unchanged.

        Raises:
            BundleError: a record or an engine is damaged.
        """
        records = []
        for path in sorted((self.path / ENGINES_FOLDER).glob("*.json")):
            record = read_record(path, EngineRecord)
            _check_file(self.path, record.engine)
            records.append(record)
        return tuple(records)

    def intact_engines(self) -> tuple[EngineRecord, ...]:
        """As `engines`, without those whose record or file is damaged: building makes them anew."""
        records = []
        for path in sorted((self.path / ENGINES_FOLDER).glob("*.json")):
            try:
                record = read_record(path, EngineRecord)
                _check_file(self.path, record.engine)
            except BundleError:
                continue
            records.append(record)
        return tuple(records)

    def add_engine(self, record: EngineRecord, engine: bytes) -> Path:
        """Add an engine, and its record after it, so that a record never stands without its engine."""
        path = self.path / record.engine.file
        with replacing_file(path) as temporary:
            temporary.write_bytes(engine)
        write_text(path.with_suffix(".json"), record.model_dump_json(indent=2) + "\n")
        return path

    def cache(self, name: str) -> Path:
        """Where a builder or a runner keeps what it learnt, so that the next one starts faster; may not be there yet.

        Caches are no part of what is hashed and certified: a lost or damaged one costs time and nothing else.
        """
        return self.path / CACHES_FOLDER / name

    def read_cache(self, name: str) -> bytes:
        """The bytes of a cache; empty if there is none that can be read."""
        try:
            return self.cache(name).read_bytes()
        except OSError:
            return b""

    def write_cache(self, name: str, content: bytes) -> None:
        """Keep a cache, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with replacing_file(self.cache(name)) as temporary:
            temporary.write_bytes(content)

    def remove_engine(self, record: EngineRecord) -> None:
        """Remove an engine and its caches; the record goes before its engine."""
        path = self.path / record.engine.file
        try:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            self.cache(runtime_cache_name(record)).unlink(missing_ok=True)
        except OSError as error:
            raise output_error(path, error) from error


@dataclass(frozen=True)
class Bundle(EngineFolder):
    """A deployment on disk, at `path`, whose immutable files were found to be what its manifest says."""

    manifest: Manifest
    """What it is made of."""

    @property
    def reference(self) -> Path:
        """The PyTorch weights."""
        return self.path / self.manifest.reference.file

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions that there are graphs of."""
        return tuple(graph.precision for graph in self.manifest.graphs)

    def graph(self, precision: Precision) -> Path:
        """The ONNX file of that precision.

        Raises:
            BundleError: there is none.
        """
        record = self.manifest.graph(precision)
        if record is None:
            raise BundleError(
                f"{self.path} has no {precision} graph, only {', '.join(self.precisions)}; "
                f"make one with: sr-deploy export --{precision}"
            )
        return self.path / record.file

    def certificate(self) -> Certificate:
        """What was measured of this bundle so far; empty if nothing.

        Raises:
            BundleError: the file is damaged, or an entry speaks of a file that the bundle does not hold or that
                changed since.
        """
        path = self.path / CERTIFICATE_NAME
        if not path.exists():
            return Certificate()
        certificate = read_record(path, Certificate)
        for entry in certificate.entries:
            _check_file(self.path, entry.artefact)
            if entry.reference_sha256 != self.manifest.reference.sha256:
                raise BundleError(
                    f"{path} was measured against other weights than this bundle's; run: sr-deploy verify {self.path}"
                )
        looked_at = [(check.file, check.sha256) for check in certificate.checks]
        looked_at += [(ledger.file, ledger.sha256) for ledger in certificate.ledgers]
        for file, sha256 in looked_at:
            if sha256 is not None:
                _check_file(self.path, FileRecord(file=file, sha256=sha256))
        return certificate

    def write_certificate(self, certificate: Certificate) -> Path:
        """Replace `certificate.json`."""
        path = self.path / CERTIFICATE_NAME
        write_text(path, certificate.model_dump_json(indent=2) + "\n")
        return path

    def remove_engine(self, record: EngineRecord) -> None:
        """Remove an engine, its caches and what the certificate says of it; the record goes before its engine."""
        with contextlib.suppress(BundleError):  # a certificate that does not hold is for `verify` to replace
            certificate = self.certificate()
            kept = certificate.without_file(record.engine.file)
            if kept != certificate:
                self.write_certificate(kept)
        super().remove_engine(record)


def engines_of_graph(graph: Path) -> EngineFolder:
    """Where the engines of an ONNX file go that is in no bundle: `FILE.engines/` beside `FILE.onnx`."""
    return EngineFolder(graph.with_suffix(".engines"))


def runtime_cache_name(record: EngineRecord) -> str:
    """Name of the cache of kernels that TensorRT-RTX compiled for an engine where it ran."""
    return f"{record.key}.runtime"


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and check the hash of every immutable file.

    Raises:
        DamagedBundleError: a file is missing, damaged or changed.
        BundleError: no bundle, or a newer schema.
    """
    manifest_path = path / MANIFEST_NAME
    if not manifest_path.is_file():
        raise BundleError(f"{path} is no bundle: it has no {MANIFEST_NAME}; make one with: sr-deploy export CHECKPOINT")
    manifest = read_record(manifest_path, Manifest)
    for record in (manifest.reference, *manifest.graphs):
        _check_file(path, record)
    for found in (manifest.int8.report, manifest.int8.picture) if manifest.int8 is not None else ():
        if found is not None:
            _check_file(path, found)
    return Bundle(path, manifest)


@contextmanager
def creating_bundle(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes the bundle at `path` if the block succeeds, in one step."""
    with replacing_folder(path) as folder:
        yield folder
        if not (folder / MANIFEST_NAME).is_file():
            raise BundleError(f"internal: the bundle for {path} was left without {MANIFEST_NAME}")


def find_newest_bundle(folder: Path) -> Path:
    """The bundle in `folder` whose manifest was made last.

    Raises:
        BundleError: there is none.
    """
    found: list[tuple[str, Path]] = []
    for manifest in folder.glob(f"*/{MANIFEST_NAME}"):
        try:
            found.append((read_record(manifest, Manifest).created_at, manifest.parent))
        except BundleError:
            continue  # a damaged one is reported when it is opened by name, and is never the newest
    if not found:
        raise BundleError(f"no bundle in {folder}; make one with: sr-deploy export")
    return max(found)[1]


def record_file(folder: Path, name: str) -> FileRecord:
    """The record of a file that lies in `folder`."""
    return FileRecord(file=name, sha256=sha256_of(folder / name))


def utc_now() -> str:
    """Now, UTC, ISO 8601 with microseconds, so that the order of writing is the order of the text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _check_file(folder: Path, record: FileRecord) -> None:
    path = folder / record.file
    if not path.is_file():
        raise DamagedBundleError(
            f"{folder} is incomplete: {record.file} is missing; make the bundle again with sr-deploy export"
        )
    seen = sha256_of(path)
    if seen != record.sha256:
        raise DamagedBundleError(
            f"{path} was changed after it was recorded (sha256 {seen[:12]}..., recorded {record.sha256[:12]}...); "
            "make it again with sr-deploy export or build"
        )


def read_record(path: Path, model: type[RecordModel]) -> RecordModel:
    """Read one of the JSON documents of `records`.

    Raises:
        DamagedBundleError: damaged.
        BundleError: written by a newer sr-deploy.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedBundleError(f"{path} is damaged: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != 1:
        raise BundleError(f"{path} has schema version {version!r}; this sr-deploy reads version 1")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedBundleError(f"{path} is damaged: {where}: {first['msg']}") from error
