"""A run: its manifest, its folder's name, and finding one. No torch here."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue, ValidationError

from sr_deploy.candidates import read_each, require_any
from sr_deploy.config import Document, first_problem
from sr_deploy.errors import InputError, OutputError, TrainingError
from sr_deploy.files import lost_folder, make_folder, output_error, write_text
from sr_deploy.locks import LOCK_NAME, hold_lock
from sr_deploy.measure.machine import Machine
from sr_deploy.measure.quality import ImageScores
from sr_deploy.run_folder import CHECKPOINT_PATTERN, CHECKPOINTS_NAME, MANIFEST_NAME, RECIPE_NAME, find_last_checkpoint
from sr_deploy.untrusted import find_inside, read_json

SCHEMA_VERSION = 1

CheckpointName = Annotated[str, Field(pattern=rf"^{CHECKPOINTS_NAME}/{CHECKPOINT_PATTERN}$")]
"""A checkpoint's folder below the run's."""


class HeldOutScores(Document):
    """Scores of one held-out photograph."""

    name: str
    """Of its file, without suffix."""
    model: ImageScores
    """The averaged generator, in FP32."""
    bicubic: ImageScores
    """The enlargement that papers compare with: MATLAB's bicubic."""


class ValidationResult(Document):
    """Scores of the held-out photographs after some number of updates."""

    step: int
    """Updates made before it."""
    model: ImageScores
    """Mean over the photographs."""
    bicubic: ImageScores
    """Mean over the photographs."""
    photographs: tuple[HeldOutScores, ...]
    degraded: tuple[HeldOutScores, ...] = ()
    """The middle of each photograph, its low resolution made by the recipe's own degradation, always with the same
    draws; none without a degradation."""


def describe_best(best: ValidationResult) -> str:
    """As in `step 3000 (30.12 dB Y-PSNR, 0.8712 SSIM)`."""
    return f"step {best.step} ({best.model.psnr_y:.2f} dB Y-PSNR, {best.model.ssim_y:.4f} SSIM)"


class PrecisionRecord(Document):
    """How the passes compute, as measured at the start of the run."""

    autocast: Literal["off", "bf16", "fp16"]
    """Number format of convolutions in the forward and backward pass; off is FP32."""
    channels_last: bool
    """Whether tensors lie as N x H x W x C in memory."""
    step_milliseconds: dict[str, float] = Field(default_factory=dict)
    """Forward and backward pass of each candidate that was measured; empty if the recipe left no choice."""

    def title(self) -> str:
        """As in `bf16, channels last`."""
        return f"{'fp32' if self.autocast == 'off' else self.autocast}{', channels last' if self.channels_last else ''}"


class StartingPoint(Document):
    """Where the generator's first weights came from."""

    path: str
    """As it was given."""
    sha256: str
    """Of the file of weights."""
    transfer: str = ""
    """Which weights were taken, and which were adapted or initialized, in one line."""


class Change(Document):
    """What computes otherwise since a run went on."""

    step: int
    """Updates made before it."""
    key: str
    """Of the recipe; `pictures`: files were added or lost, and `old` and `new` count them."""
    old: JsonValue
    new: JsonValue


class RunManifest(Document):
    """`run.json`: what a run is and how far it is."""

    schema_version: Literal[1] = 1
    name: str
    """Of the run's folder when it was made."""
    recipe: str
    created_at: AwareDatetime
    updated_at: AwareDatetime
    status: Literal["running", "stopped", "failed", "finished"]
    """`running` stays after a kill."""
    step: int
    """Updates made, as last written."""
    steps: int
    """Updates of the whole training."""
    seconds: float
    """Time in the loop so far, over all resumptions."""
    skipped_steps: int = 0
    """Steps that were skipped because a loss or gradient was NaN or infinite."""
    processes: int = 1
    """That trained last, side by side."""
    checkpoints: tuple[CheckpointName, ...] = ()
    """Folders below the run's, oldest first."""
    best_checkpoint: CheckpointName | None = None
    """The one of them whose validation is best."""
    best_validation: ValidationResult | None = None
    """The one with the highest mean, by the recipe's `run.best_by`."""
    last_validation: ValidationResult | None = None
    precision: PrecisionRecord
    """Kept when the run is resumed."""
    device: str
    """What computed last, as torch names it."""
    data_sha256: str
    """Over names and sizes of the training files, as they are now."""
    started_from: StartingPoint | None = None
    """Set if weights were given (--from)."""
    wandb_id: str | None = Field(default=None, pattern=r"^[0-9a-z]{1,64}$")
    """Of the run at Weights & Biases, where something was sent there (`run.wandb`)."""
    history: tuple[Change, ...] = ()
    """What was changed since it began, oldest first."""
    versions: dict[str, str]
    """Of sr-deploy and the libraries that it uses, by distribution."""
    machine: Machine


def read_manifest(run: Path) -> RunManifest:
    """Read `run.json` of a run folder.

    Raises:
        InputError: no run there, or a damaged manifest, or one of another schema.
    """
    path = find_inside(run, MANIFEST_NAME)
    if not os.path.lexists(path):
        raise InputError(f"{run} is not a run: it has no {MANIFEST_NAME}; start one with: sr-deploy train")
    document = read_json(path)
    try:
        return RunManifest.model_validate(document)
    except ValidationError as error:
        problem = first_problem(error, "the whole file")
        raise InputError(
            f"{path} is not a manifest of a run that this version reads (schema {SCHEMA_VERSION}): {problem}"
        ) from error


def write_manifest(run: Path, manifest: RunManifest) -> RunManifest:
    """Write `run.json` with the present time, atomically, and return what was written.

    Raises:
        OutputError: it cannot be written.
    """
    stamped = manifest.model_copy(update={"updated_at": datetime.now(UTC)})
    write_text(run / MANIFEST_NAME, stamped.model_dump_json(indent=2) + "\n")
    return stamped


def free_run_folder(parent: Path, name: str) -> Path:
    """`parent/name`, or `parent/name-2`, `-3`... if taken: a run is never overwritten. Nothing is made yet."""
    candidates = (parent / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in candidates if not os.path.lexists(path))


@contextmanager
def claim_run_folder(folder: Path, *, name: str | None = None) -> Iterator[Path]:
    """Make the folder of a new run, and hold it while the run is written; yields the folder.

    Args:
        folder: what `free_run_folder` gave, or the user named.
        name: with another process in that folder the next free one of this name will do; None: no other will.

    Raises:
        OutputError: it holds something already, or cannot be made.
        LockedError: another process has just claimed it.
    """
    while not (made := _make_new(folder)) and name is not None:
        folder = free_run_folder(folder.parent, name)
    if not made:
        _require_empty(folder)
    try:
        with hold_run(folder):
            _require_empty(folder)  # but for what another process began meanwhile
            yield folder
    finally:
        if made:
            with suppress(OSError):  # there is something in it, mostly
                folder.rmdir()


def _make_new(folder: Path) -> bool:
    """Whether this process made the folder; false: it is there already, or a file is."""
    try:
        make_folder(folder.parent)
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise output_error(folder, error) from error
    return True


def require_kept(run: Path) -> None:
    """Check that a run that is being written is still there: what writes would make its folder anew, without the rest.

    Raises:
        PlaceLostError: it is gone.
    """
    if not (run / RECIPE_NAME).is_file():
        raise lost_folder(run)


def hold_run(run: Path) -> AbstractContextManager[None]:
    """Hold a run while it is written.

    Raises:
        LockedError: another process holds it.
        OutputError: the run cannot be written.
    """
    return hold_lock(run / LOCK_NAME, run)


def _require_empty(folder: Path) -> None:
    if (folder / MANIFEST_NAME).exists():
        raise OutputError(
            f"{folder} holds a run already; go on with it with --resume, or give another folder with --out"
        )
    make_folder(folder)
    if any(path.name != LOCK_NAME for path in folder.iterdir()):
        raise OutputError(f"{folder} is not empty; give a new folder with --out")


def find_newest_run(folder: Path, *, with_checkpoint: bool = True) -> Path:
    """The run in `folder` whose manifest was written last; those whose manifest cannot be read are named and left out.

    Args:
        folder: where runs lie side by side, as `runs`.
        with_checkpoint: pass over runs that have no checkpoint yet.

    Raises:
        NothingFoundError: none there.
        InputError: there are some, and none has a manifest that can be read.
    """

    def read_date(run: Path) -> tuple[datetime, bool]:
        return read_manifest(run).updated_at, not with_checkpoint or find_last_checkpoint(run) is not None

    read, faults = read_each(folder, MANIFEST_NAME, read_date)
    found = [(date, run) for (date, fits), run in read if fits]
    what = "run with a checkpoint" if with_checkpoint else "run"
    return max(require_any(found, faults, f"no {what} in {folder}; train one with: sr-deploy train"))[1]


def require_run(run: Path) -> RunManifest:
    """The manifest of a run that is to be resumed.

    Raises:
        TrainingError: there is no run.
        InputError: its manifest cannot be read.
        UnsafePathError: a link in it leads out of its folder: training on would write and delete there.
    """
    if not os.path.lexists(run / MANIFEST_NAME):
        raise TrainingError(f"cannot resume {run}: there is no run; start one with: sr-deploy train --out {run}")
    for name in os.listdir(run):
        find_inside(run, name)
    return read_manifest(run)
