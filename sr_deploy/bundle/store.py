"""Bundles on disk: made in one step, checked at every opening."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sr_deploy.backends import Precision
from sr_deploy.bundle.certificate import Certificate
from sr_deploy.bundle.crosscheck import list_contradictions
from sr_deploy.bundle.documents import check_file, read_record
from sr_deploy.bundle.engine_folder import CACHES_FOLDER, EngineFolder
from sr_deploy.bundle.records import ENGINES_FOLDER, EngineRecord, FileRecord, Manifest
from sr_deploy.candidates import read_each, require_any
from sr_deploy.errors import (
    BundleError,
    CheckpointError,
    DamagedBundleError,
    GraphError,
    ShapeError,
    UnsafePathError,
)
from sr_deploy.files import replacing_folder, write_text
from sr_deploy.graph.external import keeps_weights_outside
from sr_deploy.locks import LOCK_NAME, hold_place
from sr_deploy.untrusted import find_inside, is_regular

MANIFEST_NAME = "bundle.json"
CERTIFICATE_NAME = "certificate.json"
PAGE_NAME = "certificate.html"
REFERENCE_NAME = "generator.safetensors"


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

    def stated_certificate(self) -> Certificate:
        """`certificate.json` as it is written, held against nothing; empty if there is none.

        Raises:
            DamagedBundleError: the file is damaged.
            BundleError: a newer sr-deploy wrote it.
        """
        path = find_inside(self.path, CERTIFICATE_NAME, DamagedBundleError)
        return read_record(path, Certificate) if os.path.lexists(path) else Certificate()

    def certificate(self) -> Certificate:
        """What was measured of this bundle so far; empty if nothing. Engines that are gone are not spoken of.

        Raises:
            DamagedBundleError: the file is damaged, speaks of a file that the bundle does not hold or that changed
                since, or contradicts itself or the bundle.
            BundleError: a newer sr-deploy wrote it.
        """
        path = self.path / CERTIFICATE_NAME
        certificate = self.stated_certificate()
        for file in certificate.files():
            gone = not os.path.lexists(find_inside(self.path, file, DamagedBundleError))
            if gone and file.startswith(f"{ENGINES_FOLDER}/"):
                certificate = certificate.without_file(file)
        spoken_of = [entry.artifact for entry in certificate.entries]
        looked_at = [(check.file, check.sha256) for check in certificate.checks]
        looked_at += [(error_budget.file, error_budget.sha256) for error_budget in certificate.error_budgets]
        spoken_of += [FileRecord(file=file, sha256=sha256) for file, sha256 in looked_at if sha256 is not None]
        for record in dict.fromkeys(spoken_of):
            check_file(self.path, record)
        if any(entry.reference_sha256 != self.manifest.reference.sha256 for entry in certificate.entries):
            raise DamagedBundleError(
                f"{path} was measured against other weights than this bundle's; run: sr-deploy verify {self.path}"
            )
        lines = [*list_contradictions(certificate, self.manifest, self.intact_engines())]
        if lines:
            more = f"; and {len(lines) - 1} more" if len(lines) > 1 else ""
            raise DamagedBundleError(f"{path} contradicts itself: {lines[0]}{more}")
        return certificate

    def write_certificate(self, certificate: Certificate) -> Path:
        """Replace `certificate.json`."""
        path = self.path / CERTIFICATE_NAME
        write_text(path, certificate.model_dump_json(indent=2) + "\n")
        return path

    def add_engine(self, record: EngineRecord, engine: bytes) -> Path:
        """As everywhere; what the certificate says of another engine that stood in its place goes with that."""
        self._forget(record.engine.file)
        return super().add_engine(record, engine)

    def remove_engine(self, record: EngineRecord) -> None:
        """Remove an engine, its caches and what the certificate says of it; the record goes before its engine."""
        self._forget(record.engine.file)
        super().remove_engine(record)

    def _forget(self, file: str) -> None:
        with contextlib.suppress(BundleError):  # a damaged certificate is for `verify` to replace
            certificate = self.stated_certificate()
            kept = certificate.without_file(file)
            if kept != certificate:
                self.write_certificate(kept)


def is_bundle(path: Path) -> bool:
    """Whether a folder is a bundle, whole or not; a manifest that is a link or a device is refused later."""
    return os.path.lexists(path / MANIFEST_NAME)


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and check the hash of every immutable file.

    Raises:
        DamagedBundleError: a file is missing, damaged, changed or not a bundle's, or the manifest contradicts itself.
        BundleError: no bundle, or a newer schema.
    """
    if not is_bundle(path):
        raise BundleError(
            f"{path} is not a bundle: it has no {MANIFEST_NAME}; make one with: sr-deploy export CHECKPOINT"
        )
    manifest = read_record(find_inside(path, MANIFEST_NAME, DamagedBundleError), Manifest)
    for record in manifest.files:
        check_file(path, record)
    _check_places(path)
    for graph in manifest.graphs:
        with blaming_bundle(path):
            outside = keeps_weights_outside(path / graph.file)
        if outside:
            raise DamagedBundleError(
                f"{path / graph.file} keeps weights in another file, which no hash covers; a bundle's graph holds them "
                "itself: make the bundle again with sr-deploy export"
            )
    return Bundle(path, manifest)


def _check_places(path: Path) -> None:
    """Look at the places in a bundle that commands write to: what stands there is what they would have put there."""
    for name in (ENGINES_FOLDER, CACHES_FOLDER):
        place = find_inside(path, name, DamagedBundleError)
        if os.path.lexists(place) and not place.is_dir():
            raise DamagedBundleError(f"{place} has to be a folder, and is none; remove it")
    for name in (CERTIFICATE_NAME, PAGE_NAME, LOCK_NAME, f"{CACHES_FOLDER}/{LOCK_NAME}"):
        place = find_inside(path, name, DamagedBundleError)
        if os.path.lexists(place) and not is_regular(place):
            raise DamagedBundleError(f"{place} has to be a plain file, and is none; remove it")


@contextmanager
def blaming_bundle(bundle: Bundle | Path | None) -> Iterator[None]:
    """Within it, what is wrong with a file's content is what is wrong with the bundle that the file is of.

    Args:
        bundle: whose files are read; None: a file that the user gave, whose errors stay as they are.

    Raises:
        DamagedBundleError: in place of every `CheckpointError`, `GraphError`, `ShapeError` and `UnsafePathError`.
    """
    try:
        yield
    except (CheckpointError, GraphError, ShapeError, UnsafePathError) as error:
        if bundle is None:
            raise
        raise DamagedBundleError(str(error)) from error


@contextmanager
def holding_bundle(path: Path) -> Iterator[None]:
    """Hold the place of a bundle that is made, and the bundle that stands there until then.

    Raises:
        LockedError: another process makes one there, or adds something to the one that stands there.
        OutputError: nothing can be written there.
    """
    with hold_place(path), EngineFolder(path).writing() if is_regular(path / MANIFEST_NAME) else nullcontext():
        yield


@contextmanager
def creating_bundle(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes the bundle at `path` if the block succeeds, in one step."""
    with replacing_folder(path) as folder:
        yield folder
        if not (folder / MANIFEST_NAME).is_file():
            raise BundleError(f"internal: the bundle for {path} was left without {MANIFEST_NAME}")


def find_newest_bundle(folder: Path) -> Path:
    """The bundle in `folder` whose manifest was made last; those whose manifest cannot be read are named and left out.

    Raises:
        NothingFoundError: there is none.
        InputError: there are some, and none has a manifest that can be read.
    """

    def read_date(bundle: Path) -> str:
        return read_record(find_inside(bundle, MANIFEST_NAME, DamagedBundleError), Manifest).created_at

    found, faults = read_each(folder, MANIFEST_NAME, read_date)
    return max(require_any(found, faults, f"no bundle in {folder}; make one with: sr-deploy export"))[1]


def utc_now() -> str:
    """Now, UTC, ISO 8601 with microseconds, so that the order of writing is the order of the text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
