"""Documents and files of a bundle, read and checked against what is recorded of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sr_deploy.bundle.records import FileRecord
from sr_deploy.config import first_problem
from sr_deploy.errors import BundleError, DamagedBundleError
from sr_deploy.files import sha256_of
from sr_deploy.untrusted import find_inside, is_regular, read_json

RecordModel = TypeVar("RecordModel", bound=BaseModel)
_MAX_BYTES = 8 * 2**30


def read_record(path: Path, model: type[RecordModel]) -> RecordModel:
    """Read one of the JSON documents of `records`.

    Raises:
        DamagedBundleError: damaged.
        BundleError: written by a newer sr-deploy.
    """
    document = read_json(path, DamagedBundleError)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > 1:
        raise BundleError(f"{path} has schema version {version}; this sr-deploy reads version 1")
    if version != 1:
        raise DamagedBundleError(f"{path} is damaged: it states no schema version; this sr-deploy reads version 1")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise DamagedBundleError(f"{path} is damaged: {first_problem(error, 'the whole')}") from error


def check_file(folder: Path, record: FileRecord) -> None:
    """Hold a file of a bundle against its record.

    Raises:
        DamagedBundleError: it is missing, no plain file, cannot be read, or has another hash.
    """
    path = find_inside(folder, record.file, DamagedBundleError)
    if not is_regular(path):
        state = "not a plain file" if os.path.lexists(path) else "missing"
        raise DamagedBundleError(
            f"{folder} is incomplete: {record.file} is {state}; make the bundle again with sr-deploy export"
        )
    try:
        if path.stat().st_size > _MAX_BYTES:  # a sparse file of a terabyte takes no space, and hours to hash
            raise DamagedBundleError(f"{path} has {path.stat().st_size} bytes; no file of a bundle has more than 8 GiB")
        seen = sha256_of(path)
    except OSError as error:
        raise DamagedBundleError(f"{path} cannot be read: {error.strerror or error}") from error
    if seen != record.sha256:
        raise DamagedBundleError(
            f"{path} was changed after it was recorded (sha256 {seen[:12]}..., recorded {record.sha256[:12]}...); "
            "make it again with sr-deploy export or build"
        )


def record_file(folder: Path, name: str) -> FileRecord:
    """The record of a file that lies in `folder`."""
    return FileRecord(file=name, sha256=sha256_of(folder / name))
