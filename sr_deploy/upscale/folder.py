"""A folder of pictures: read ahead, upscale, write behind; what is finished is not done again."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sr_deploy.errors import PlaceLostError
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.upscale.devices import DevicePool
from sr_deploy.upscale.folder_job import (
    Failure,
    FolderJob,
    FolderProgress,
    FolderResult,
    LoadedItem,
    describe_error,
    hash_config,
    load_item,
    open_folder_job,
    save_item,
)
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import Enlarged, FileSettings, enlarge_image
from sr_deploy.upscale.output_naming import Item

__all__ = ["Failure", "FolderResult", "upscale_folder"]


class _StoppedError(Exception):
    """The job is to stop between two tiles."""


def upscale_folder(
    upscaler: Upscaler | Sequence[Upscaler],
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
        upscaler: used by this job alone meanwhile; several, of the same network on one device each, share the pictures.
        source: folder of pictures; `target` inside it is left out.
        target: folder of results, made if there is none.
        settings: for every file.
        suffix: of all results, as in `.png`; None: that of each source, or `.png` where it cannot be written.
        tile: what the upscaler was given, to tell results of other tiles apart.
        on_progress: told how far it is, one call at a time, from any thread.
        stop: once set, the job ends after the tile at hand; results that are ready are still written.

    Raises:
        InputError: no such folder, no picture in it, both the same, settings that cannot be met, or another process
            writes into `target`, or a suffix that cannot be written.
        OutputError: `target` cannot be written at all.
    """
    settings = settings or FileSettings()
    upscalers = [upscaler] if isinstance(upscaler, Upscaler) else list(upscaler)
    config_hash = hash_config(upscalers[0].spec, settings, tile, upscalers[0].asked_batch)
    with open_folder_job(source, target, settings, suffix, config_hash) as job:
        _LocalRun(job, upscalers, on_progress or (lambda _: None), stop or threading.Event()).run()
    return job.result


@dataclass(frozen=True)
class _Begun:
    """A picture that is being read."""

    number: int
    item: Item
    loaded: Future[LoadedItem]


class _LocalRun:
    """A job on the devices of this machine."""

    def __init__(
        self, job: FolderJob, upscalers: Sequence[Upscaler], on_progress: OnProgress, stop: threading.Event
    ) -> None:
        self._job = job
        self._upscalers = upscalers
        self._progress = FolderProgress(job.items, on_progress)
        self._stop = stop

    def run(self) -> None:
        """Do them: some are read ahead, and written behind by as many threads as there are processors to spare."""
        writers = 1 if (os.cpu_count() or 1) <= 4 else 2
        works = [partial(self._enlarge, upscaler) for upscaler in self._upscalers]
        behind: deque[Future[None]] = deque()
        with (
            ThreadPoolExecutor(1, "read") as reading,
            ThreadPoolExecutor(writers, "write") as writing,
            DevicePool(works) as devices,
        ):
            try:
                for begun, enlarged in devices.run(self._read(reading)):
                    while len(behind) >= writers:
                        behind.popleft().result()
                    behind.append(writing.submit(self._write, begun, enlarged))
                    del begun, enlarged
                for pending in behind:
                    pending.result()
            except BaseException:
                self._stop.set()  # what the devices are at ends with the tile at hand
                raise
        result = self._job.result
        result.stopped = self._stop.is_set() and bool(result.left)
        for fault in devices.faults:
            result.faults.append(f"{self._upscalers[fault.device].spec.device}: {describe_error(fault.error)}")

    def _ends(self) -> bool:
        return self._stop.is_set() or self._job.lost

    def _read(self, reading: ThreadPoolExecutor) -> Iterator[_Begun]:
        """The items as the devices get them; one more is read already."""
        prefetched: deque[_Begun] = deque()
        for number, item in enumerate(self._job.items):
            prefetched.append(_Begun(number, item, reading.submit(self._load, item)))
            if len(prefetched) > 1:
                yield prefetched.popleft()
        yield from prefetched

    def _load(self, item: Item) -> LoadedItem:
        if self._ends():
            raise _StoppedError
        return load_item(item, self._upscalers[0], self._job.settings)

    def _enlarge(self, upscaler: Upscaler, begun: _Begun) -> Enlarged:
        def show(progress: Progress) -> None:
            self._progress.show(begun.number, progress.done)
            if self._ends():
                raise _StoppedError
            self._job.kept.require()

        show(Progress("upscaling", 0, 1, "pictures"))
        return enlarge_image(upscaler, begun.loaded.result().picture, self._job.settings, on_progress=show)

    def _write(self, begun: _Begun, enlarged: Future[Enlarged]) -> None:
        item, job = begun.item, self._job
        try:
            if job.lost:
                raise _StoppedError
            result, loaded = enlarged.result(), begun.loaded.result()
            with job.kept.blamed():
                job.begin(item)
                done = save_item(item, loaded, result, job.settings, job.kept)
                job.finish(item, done, loaded.sha256, loaded.stamp)
        except _StoppedError:
            job.leave(item)
        except Exception as error:  # noqa: BLE001 - one picture's trouble, even unforeseen, is not that of the others
            job.fail(item, describe_error(error), lost=isinstance(error, PlaceLostError))
            self._progress.show(begun.number, 1.0)
