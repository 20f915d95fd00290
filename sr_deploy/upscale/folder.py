"""A folder of pictures: read ahead, upscale, write behind; what is finished is not done again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from sr_deploy.errors import ImageError, InputError, OutputError, SrDeployError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.formats import find_format
from sr_deploy.imaging.picture import Picture, read_picture
from sr_deploy.upscale.files import (
    Enlarged,
    FileSettings,
    UpscaledFile,
    check_picture,
    check_settings,
    enlarge_picture,
    require_writable_place,
    write_enlarged,
)
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.job import JobRecord, Stamp, open_record, stamp_of
from sr_deploy.upscale.places import Item, plan_folder

OnProgress = Callable[[float, str], None]
"""Called with the share of the job that is done, 0 to 1, and a note for people."""

_READ_AHEAD = 2
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Failure:
    """A picture that was not upscaled."""

    source: Path
    """The picture."""
    reason: str
    """Why not, in one sentence."""


@dataclass
class FolderResult:
    """What became of a folder."""

    done: list[UpscaledFile] = field(default_factory=list)
    """Written now."""
    skipped: list[Path] = field(default_factory=list)
    """Results that were finished before and still fit."""
    failures: list[Failure] = field(default_factory=list)
    """Pictures that could not be upscaled; the others were done all the same."""
    left: list[Path] = field(default_factory=list)
    """Pictures that were not begun, or begun and dropped, since the job was stopped."""
    stopped: bool = False
    """Whether it was stopped from outside (Ctrl-C)."""
    seconds: float = 0.0
    """Time that all took."""


@dataclass(frozen=True)
class _Loaded:
    """A picture that was read, and the state of its file then."""

    picture: Picture
    sha256: str
    stamp: Stamp


class _StoppedError(Exception):
    """The job is to stop between two tiles."""


def upscale_folder(
    upscaler: Upscaler,
    source: Path,
    target: Path,
    settings: FileSettings | None = None,
    *,
    suffix: str | None = None,
    tile: int | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> FolderResult:
    """Upscale all pictures in a folder and below into another folder of the same structure.

    A picture whose result stands already, of the same source by the same network and settings, is skipped. One that
    cannot be read or upscaled is reported, and the others are done.

    Args:
        upscaler: used by this thread alone meanwhile.
        source: folder of pictures; `target` inside it is left out.
        target: folder of results, made if there is none.
        settings: for every file.
        suffix: of all results, as in `.png`; None: that of each source, or `.png` where it cannot be written.
        tile: what the upscaler was given, to tell results of other tiles apart.
        on_progress: told how far it is.
        stop: once set, the job ends after the tile at hand; results that are ready are still written.

    Raises:
        InputError: no such folder, no picture in it, both the same, settings that cannot be met, or another process
            writes into `target`, or a suffix that cannot be written.
        OutputError: `target` cannot be written at all.
    """
    started = time.perf_counter()
    settings = settings or FileSettings()
    items = plan_folder(source, target, suffix)
    check_settings(_pick_judge(items, settings), settings)
    require_writable_place(target / "x")
    made_by = _describe_making(upscaler, settings, tile)
    with open_record(target) as record:
        job = _Job(upscaler, settings, record, made_by, stop or threading.Event())
        job.run(job.choose(items), on_progress or (lambda share, note: None))
    job.result.seconds = time.perf_counter() - started
    return job.result


def _pick_judge(items: Sequence[Item], settings: FileSettings) -> Path:
    """A result to check the settings with: one in a format with loss, where there is a quality to check."""
    if settings.quality is not None:
        for item in items:
            if find_format(item.target).quality is not None:
                return item.target
    return items[0].target


def _fit_settings(target: Path, settings: FileSettings) -> FileSettings:
    """Without the quality, for formats that have none."""
    return replace(settings, quality=None) if find_format(target).quality is None else settings


class _Job:
    """One run over a folder."""

    def __init__(
        self, upscaler: Upscaler, settings: FileSettings, record: JobRecord, made_by: str, stop: threading.Event
    ) -> None:
        self.result = FolderResult()
        self._upscaler = upscaler
        self._settings = settings
        self._record = record
        self._made_by = made_by
        self._stop = stop
        self._full: str | None = None
        """Why nothing more can be written, once that is so."""

    def choose(self, items: Sequence[Item]) -> list[Item]:
        """Those that are to be done; the others go into the result."""
        sources = {item.source.resolve() for item in items}
        taken: set[Path] = set()
        chosen = []
        for item in items:
            place = item.target.resolve()
            if place in taken:
                self._fail(item, f"another picture becomes {item.target} too; rename one of them")
            elif place in sources:
                self._fail(item, f"its result {item.target} would replace a picture to read; choose another folder")
            elif self._record.is_finished(item.source, item.target, self._made_by):
                self.result.skipped.append(item.target)
            elif self._record.is_foreign(item.target):
                self._fail(item, f"{item.target} exists and was not written by this command; remove it or rename it")
            else:
                chosen.append(item)
            taken.add(place)
        return chosen

    def run(self, items: Sequence[Item], on_progress: OnProgress) -> None:
        """Do them: two are read ahead, and written behind by as many threads as there are processors to spare."""
        sizes = [_size_of(item.source) for item in items]
        total, begun = max(1, sum(sizes)), 0
        writers = 1 if (os.cpu_count() or 1) <= 4 else 2
        with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(writers, "write") as writing:
            ahead: deque[Future[_Loaded]] = deque()
            behind: deque[Future[None]] = deque()
            for number, item in enumerate(items):
                ahead.extend(
                    reading.submit(self._load, later) for later in items[number + len(ahead) : number + 1 + _READ_AHEAD]
                )
                loaded = ahead.popleft()
                if self._stop.is_set() or self._full:
                    loaded.cancel()
                    self.result.left.append(item.source)
                    continue

                def show(share: float, begun: int = begun, number: int = number, item: Item = item) -> None:
                    on_progress((begun + share * sizes[number]) / total, f"{number + 1}/{len(items)} {item.name}")
                    if self._stop.is_set():
                        raise _StoppedError

                try:
                    show(0.0)
                    read = loaded.result()
                    enlarged = enlarge_picture(self._upscaler, read.picture, self._settings, show)
                    while len(behind) >= writers:
                        behind.popleft().result()
                    behind.append(writing.submit(self._write, item, read, enlarged))
                    del read, enlarged
                except _StoppedError:
                    self.result.left.append(item.source)
                except (SrDeployError, MemoryError) as error:
                    self._fail(item, _describe_error(error))
                begun += sizes[number]
            for pending in behind:
                pending.result()
        self.result.stopped = self._stop.is_set() and bool(self.result.left)

    def _load(self, item: Item) -> _Loaded:
        if self._stop.is_set() or self._full:
            raise InputError("the job was stopped")
        stamp = stamp_of(item.source)
        picture = read_picture(item.source, max_pixels=self._settings.max_pixels)
        check_picture(picture, self._upscaler, item.source, item.target, self._settings)
        try:
            sha256 = sha256_of(item.source)
        except OSError as error:
            raise ImageError(f"cannot read {item.source}: {error.strerror or error}") from error
        if stamp is None or stamp_of(item.source) != stamp:
            raise ImageError(f"{item.source} changed while it was read; run the command again once it is complete")
        return _Loaded(picture, sha256, stamp)

    def _write(self, item: Item, read: _Loaded, enlarged: Enlarged) -> None:
        try:
            self._record.begin(item.name, item.target)
            done = write_enlarged(
                item.source, item.target, read.picture, enlarged, _fit_settings(item.target, self._settings)
            )
            self._record.finish(item.name, item.target, read.sha256, read.stamp, self._made_by)
            self.result.done.append(done)
        except (SrDeployError, MemoryError) as error:
            self._fail(item, _describe_error(error))
            if isinstance(error, OutputError) and getattr(error.__cause__, "errno", None) in _DISK_IS_FULL:
                self._full = str(error)  # hours of computing for nothing otherwise

    def _fail(self, item: Item, reason: str) -> None:
        self.result.failures.append(Failure(item.source, reason))


def _describe_making(upscaler: Upscaler, settings: FileSettings, tile: int | None) -> str:
    """A hash of what decides on a result's pixels, the source and the format apart."""
    artefact = upscaler.spec.artefact
    network = sha256_of(artefact) if artefact is not None and artefact.is_file() else str(artefact)
    making = (network, str(upscaler.spec), tile, settings.scale, settings.alpha, settings.quality)
    return hashlib.sha256(json.dumps(making).encode()).hexdigest()


def _describe_error(error: SrDeployError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}; take a smaller --tile"
    return " ".join(str(error).split())


def _size_of(path: Path) -> int:
    stamp = stamp_of(path)
    return stamp.size if stamp is not None else 0
