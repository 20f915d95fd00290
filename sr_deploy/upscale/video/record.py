"""The folder beside a result where its segments wait, and what tells whether they belong to this job."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sr_deploy.deps import installed_version
from sr_deploy.errors import InputError, OutputError
from sr_deploy.files import output_error, sha256_of, write_text
from sr_deploy.locks import hold_lock
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.untrusted import is_regular, read_json, refuse_link
from sr_deploy.upscale.batch import describe_batch
from sr_deploy.upscale.plan import Cut
from sr_deploy.upscale.video.encoders import EncoderPlan

_RECORD = "job.json"
_CUT = "cut.json"
_LOCK = "lock"


def describe_job(
    source: Path,
    spec: RunnerSpec,
    plan: EncoderPlan,
    segment_frames: int,
    *,
    tile: int | None = None,
    batch: int | None = None,
) -> str:
    """A hash of all that decides on the segments; `tile`, `batch`: as asked for."""
    artifact = spec.artifact
    making: dict[str, object] = {
        "source": sha256_of(source),
        "network": sha256_of(artifact) if artifact is not None and artifact.is_file() else str(artifact),
        "backend": f"{spec} {spec.version}",
        "tile": tile,
        "plan": {**asdict(plan), "options": dict(plan.options)},
        "segment_frames": segment_frames,
        "av": installed_version("av"),
    }
    if told := describe_batch(batch, spec.device):
        making["batch"] = told
    return hashlib.sha256(json.dumps(making, default=str, sort_keys=True).encode()).hexdigest()


def find_work_folder(target: Path) -> Path:
    """Where the segments of a result wait."""
    return target.with_name(f".{target.name}.sr-deploy")


@contextlib.contextmanager
def open_work_folder(target: Path, job: str) -> Iterator[Path]:
    """Yield the folder; segments of another job in it are removed, and a folder without segments at the end.

    Raises:
        LockedError: another process works on this result.
        UnsafePathError: the folder is a link.
        OutputError: it cannot be written.
    """
    folder = refuse_link(find_work_folder(target))
    try:
        with hold_lock(folder / _LOCK, target):
            try:
                record = folder / _RECORD
                if not is_regular(record) or record.read_bytes() != job.encode():
                    empty_work_folder(folder)
                    write_text(record, job)
                yield folder
            finally:
                if not any(folder.glob("segment-*.json")):  # one is finished once that stands
                    with contextlib.suppress(OutputError):  # reported already, or without consequence
                        empty_work_folder(folder)
    finally:
        with contextlib.suppress(OSError):  # segments wait there, or another process has begun
            folder.rmdir()


def empty_work_folder(folder: Path) -> None:
    """Remove all but the lock that is held.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        for path in folder.iterdir():
            if path.name != _LOCK:
                path.unlink()
    except OSError as error:
        raise output_error(folder, error) from error


def read_cut(folder: Path) -> Cut | None:
    """How the frames of the segments in that folder were cut; None: there are none yet.

    Raises:
        InputError: the file that says it is damaged.
    """
    path = folder / _CUT
    if not os.path.lexists(path):
        return None
    try:
        return TypeAdapter(Cut).validate_python(read_json(path))
    except ValidationError as error:
        raise InputError(f"{path} is damaged; remove its folder and run the command again") from error


def write_cut(folder: Path, cut: Cut) -> None:
    """Keep it for runs that go on with this one's segments.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(folder / _CUT, json.dumps(asdict(cut)))
