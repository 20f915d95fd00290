"""A folder job, on this machine or on Ray: the images to upscale, the steps of each, and the results."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sr_deploy.errors import ImageError, SrDeployError, describe_surprise, one_line
from sr_deploy.files import KeptFolder, output_error, sha256_of
from sr_deploy.imaging.decoded_image import DecodedImage, decode_image
from sr_deploy.imaging.formats import find_format
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.batch import describe_batch
from sr_deploy.upscale.folder_journal import FolderJournal, Stamp, open_journal, stamp_of
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import (
    Enlarged,
    FileSettings,
    UpscaledFile,
    check_image,
    check_settings,
    require_writable_place,
    write_enlarged,
)
from sr_deploy.upscale.output_naming import Item, list_output_keys, plan_folder


@dataclass(frozen=True)
class Failure:
    """A picture that was not upscaled."""

    source: Path
    reason: str
    """Why not, in one sentence."""


@dataclass
class FolderResult:
    """What became of a folder. All lists are in the order of the sources."""

    done: list[UpscaledFile] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    """Results that were finished before and still fit."""
    failures: list[Failure] = field(default_factory=list)
    """Pictures that could not be upscaled; the others were done all the same."""
    left: list[Path] = field(default_factory=list)
    """Pictures that were not begun, or begun and dropped, since the job was stopped."""
    faults: list[str] = field(default_factory=list)
    """What devices failed at that others did then."""
    stopped: bool = False
    """Whether it was stopped from outside (Ctrl-C)."""
    seconds: float = 0.0
    """Time that all took."""


class FolderProgress:
    """How far a job is, by the bytes of its sources. Threads may share it."""

    def __init__(self, items: Sequence[Item], on_progress: OnProgress) -> None:
        """`items`: those to be done."""
        self._names = [item.name for item in items]
        self._sizes = [0 if (stamp := stamp_of(item.source)) is None else stamp.size for item in items]
        self._shares = [0.0] * len(items)
        self._all = max(1, sum(self._sizes))
        self._done = 0.0
        self._on_progress = on_progress
        self._lock = threading.Lock()

    def show(self, number: int, share: float) -> None:
        """Tell that this share of an item is done."""
        with self._lock:
            self._done += self._sizes[number] * (share - self._shares[number])
            self._shares[number] = share
            stage = f"{number + 1}/{len(self._names)} {self._names[number]}"
            self._on_progress(Progress(stage, min(self._all, self._done), self._all, "bytes"))


@dataclass(frozen=True)
class LoadedItem:
    """A picture that was read, and the state of its file then."""

    picture: DecodedImage
    sha256: str
    """Of the file's bytes."""
    stamp: Stamp
    """Size and date of the file."""


class FolderJob:
    """One run over a folder. Threads may share it."""

    def __init__(
        self, items: Sequence[Item], settings: FileSettings, journal: FolderJournal, config_hash: str, folder: Path
    ) -> None:
        """Choose what of `items` is to be done in `folder`; the others go into the result."""
        self.settings = settings
        self.config_hash = config_hash
        """As `hash_config` gives it."""
        self.result = FolderResult()
        self.lost = False
        """Whether nothing more can be written: computing on would be hours for nothing."""
        self.kept = journal.kept
        """The folder of the results."""
        self._journal = journal
        self.items = self._choose(items, list_output_keys(items, folder))

    def begin(self, item: Item) -> None:
        """Note that its result is going to be written."""
        self._journal.begin(item.name, item.target)

    def finish(self, item: Item, done: UpscaledFile, sha256: str, stamp: Stamp, config_hash: str | None = None) -> None:
        """Note that its result is written, of a source in that state."""
        self._journal.finish(item.name, item.target, sha256, stamp, config_hash or self.config_hash)
        self.result.done.append(done)

    def fail(self, item: Item, reason: str, *, lost: bool = False) -> None:
        """Note that there is no result; `lost`: there will be none of others either."""
        self.result.failures.append(Failure(item.source, reason))
        self.lost = self.lost or lost

    def leave(self, item: Item) -> None:
        """Note that it is left for another run."""
        self.result.left.append(item.source)

    def _choose(self, items: Sequence[Item], keys: Sequence[str]) -> list[Item]:
        sources = {str(item.source.resolve()) for item in items}
        taken: set[str] = set()
        chosen = []
        for item, key in zip(items, keys, strict=True):
            try:
                if key in taken:
                    self.fail(item, f"another picture becomes {item.target} too; rename one of them")
                elif key in sources:
                    self.fail(item, f"its result {item.target} would replace a picture to read; choose another folder")
                elif self._journal.is_finished(item.source, item.target, self.config_hash):
                    self.result.skipped.append(item.target)
                elif self._journal.is_foreign(item.target):
                    self.fail(item, f"{item.target} exists and was not written by this command; remove it or rename it")
                else:
                    chosen.append(item)
            except OSError as error:  # a name that is too long, were it by the ending that it gets
                self.fail(item, str(output_error(item.target, error)))
            taken.add(key)
        return chosen


@contextmanager
def open_folder_job(
    source: Path, target: Path, settings: FileSettings, suffix: str | None, config_hash: str
) -> Iterator[FolderJob]:
    """Plan a folder, open its journal, and sort the results at the end.

    Raises:
        InputError, OutputError: as `upscale_folder`.
    """
    started = time.perf_counter()
    items = plan_folder(source, target, suffix)
    check_settings(_pick_judge(items, settings), settings)
    require_writable_place(target / "x")
    with open_journal(target) as journal:
        job = FolderJob(items, settings, journal, config_hash, target)
        yield job
    numbers = {item.source: number for number, item in enumerate(items)}
    job.result.done.sort(key=lambda done: numbers[done.source])
    job.result.failures.sort(key=lambda failure: numbers[failure.source])
    job.result.left.sort(key=numbers.__getitem__)
    job.result.seconds = time.perf_counter() - started


def load_item(item: Item, upscaler: Upscaler, settings: FileSettings) -> LoadedItem:
    """Read a picture and the state of its file.

    Raises:
        ImageError: it cannot be read, is of a kind not taken, or changes meanwhile.
    """
    stamp = stamp_of(item.source)
    picture = decode_image(item.source, max_pixels=settings.max_pixels)
    check_image(picture.header, upscaler, item.source, item.target, settings)
    try:
        sha256 = sha256_of(item.source)
    except OSError as error:
        raise ImageError(f"cannot read {item.source}: {error.strerror or error}") from error
    if stamp is None or stamp_of(item.source) != stamp:
        raise ImageError(f"{item.source} changed while it was read; run the command again once it is complete")
    return LoadedItem(picture, sha256, stamp)


def save_item(
    item: Item, loaded: LoadedItem, enlarged: Enlarged, settings: FileSettings, kept: KeptFolder
) -> UpscaledFile:
    """Write a result into the folder of all, without the quality where the format has none.

    Raises:
        ImageError: the target's format cannot hold it.
        OutputError: it cannot be written.
    """
    if find_format(item.target).quality is None:
        settings = replace(settings, quality=None)
    return write_enlarged(item.source, item.target, loaded.picture, enlarged, settings, within=kept)


def hash_config(spec: RunnerSpec, settings: FileSettings, tile: int | None, batch: int | None = None) -> str:
    """A hash of what decides on a result's pixels, the source and the format apart; `tile`, `batch`: as asked for."""
    artifact = spec.artifact
    network = sha256_of(artifact) if artifact is not None and artifact.is_file() else str(artifact)
    config = (
        network,
        str(spec),
        tile,
        settings.scale,
        settings.alpha,
        settings.quality,
        *describe_batch(batch, spec.device),
    )
    return hashlib.sha256(json.dumps(config).encode()).hexdigest()


def describe_error(error: Exception) -> str:
    """One line."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}; take a smaller --tile"
    return one_line(error, None) if isinstance(error, SrDeployError) else describe_surprise(error)


def _pick_judge(items: Sequence[Item], settings: FileSettings) -> Path:
    """A result to check the settings with: one in a format with loss, where there is a quality to check."""
    if settings.quality is not None:
        for item in items:
            if find_format(item.target).quality is not None:
                return item.target
    return items[0].target
