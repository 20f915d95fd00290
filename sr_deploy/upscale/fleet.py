"""A folder on several machines: Ray gives each device a worker, which reads, upscales and writes files by itself.

All machines see the folders and the model under the same paths. The journal is written by the calling process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sr_deploy.deps import require
from sr_deploy.errors import BackendError, InputError, OutputError, SrDeployError, first_line
from sr_deploy.measure.machine import usable_cores
from sr_deploy.progress import OnProgress
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.folder_job import (
    FolderJob,
    FolderProgress,
    FolderResult,
    describe_error,
    hash_config,
    open_folder_job,
)
from sr_deploy.upscale.image_file import FileSettings
from sr_deploy.upscale.output_naming import Item
from sr_deploy.upscale.ray_worker import Worker, WorkerConfig, WorkerResult, describe_worker

if TYPE_CHECKING:
    import ray.data

_PURPOSE = "upscaling on several machines"
_ROUNDS = 2
"""How often a file is given out when its worker, not the file, was at fault."""
_DEATHS = 1
"""How often a file is given to another worker at once, when the one that had it died."""
_FILES_ON_GPU = 3
"""Files that a worker with a GPU has in hand: one is read and one written while the network computes the third."""
_CONNECT_SECONDS = 10.0
_STORE_BYTES = 100 * 2**20
"""Of a local Ray's shared memory: names and reports are all that goes through it."""


@dataclass(frozen=True)
class Fleet:
    """A Ray cluster, asked what it computes with."""

    config: WorkerConfig
    """What each worker opens, with the backend that one of them chose."""
    workers: int
    """One for each GPU, or for each processor that Ray counts."""
    on_gpus: bool
    """Whether each has a GPU of its own; else each has one processor, and computes with one thread."""
    spec: RunnerSpec
    """What one of them computes with."""
    receptive_radius: int | None
    """How far the network looks around a pixel."""

    @property
    def threads(self) -> int | None:
        """Of each worker's CPU; None: as the backend likes."""
        return None if self.on_gpus else 1


@contextlib.contextmanager
def open_fleet(address: str, config: WorkerConfig) -> Iterator[Fleet]:
    """Connect to Ray, and let one worker say what it computes with.

    Args:
        address: of a cluster, as in `10.0.0.1:6379`; `auto`: the one that this machine belongs to; `local`: one of
            this machine alone, ended afterwards.
        config: what each worker opens.

    Raises:
        MissingDependencyError: Ray is not installed.
        InputError: there is no cluster at that address, or a device other than `cpu`.
        BackendError: the cluster has nothing to compute with.
        SrDeployError: what the worker says, as there is no such model on its machine.
    """
    if config.device not in (None, "cpu"):
        raise InputError(f"with --ray the device is cpu, or left out for the GPUs that Ray has, not {config.device!r}")
    if config.model.exists():  # else it may be the name of a network that ships with sr-deploy
        config = replace(config, model=config.model.absolute())
    with _connecting(address):
        import ray

        resources = ray.cluster_resources()
        on_gpus = config.device is None and resources.get("GPU", 0) >= 1
        workers = int(resources.get("GPU" if on_gpus else "CPU", 0))
        if workers < 1:
            raise BackendError(f"the Ray cluster {address} has no processor; start a node with: ray start --num-cpus=N")
        describe = ray.remote(num_cpus=1, num_gpus=int(on_gpus))(describe_worker)
        try:
            spec, receptive_radius = ray.get(describe.remote(config, None if on_gpus else 1))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SrDeployError):
                raise error.cause from None
            raise
        yield Fleet(replace(config, backend=str(spec)), workers, on_gpus, spec, receptive_radius)


def upscale_folder_on_fleet(
    fleet: Fleet,
    source: Path,
    target: Path,
    settings: FileSettings | None = None,
    *,
    suffix: str | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> FolderResult:
    """As `upscale_folder`, with the workers of a cluster: the same files, and the same journal.

    A file that cannot be read or upscaled is reported. One whose worker died, or whose device failed, is given to
    another: `_DEATHS` times at once, and all that are left once more at the end.

    Args:
        fleet: from `open_fleet`.
        source: folder of pictures, under the same path on all machines.
        target: folder of results, likewise.
        settings: for every file.
        suffix: of all results; None: that of each source.
        on_progress: told how far it is, after each file.
        stop: once set, no more is waited for; what workers are at is dropped.

    Raises:
        InputError, OutputError: as `upscale_folder`.
        BackendError: Ray gave up.
    """
    settings = settings or FileSettings()
    stop = stop or threading.Event()
    config_hash = hash_config(fleet.spec, settings, fleet.config.tile, fleet.config.batch)
    with open_folder_job(source, target, settings, suffix, config_hash) as job:
        progress = FolderProgress(job.items, on_progress or (lambda _: None))
        _Run(fleet, job, progress, stop).run()
    return job.result


class _Run:
    """A job on a cluster."""

    def __init__(self, fleet: Fleet, job: FolderJob, progress: FolderProgress, stop: threading.Event) -> None:
        self._fleet = fleet
        self._job = job
        self._progress = progress
        self._stop = stop
        self._open = dict(enumerate(job.items))
        """Items without a result yet."""
        self._reasons: dict[int, str] = {}
        """What devices said of those."""

    def run(self) -> None:
        """Give out files until each has a result, or has failed on every attempt."""
        job = self._job
        for item in job.items:
            job.begin(item)
        for _ in range(_ROUNDS):
            self._give_out()
        ended = self._ends()
        for number, item in self._open.items():
            if ended:
                job.leave(item)
            else:
                died = f"the worker that had it died, {_ROUNDS * (_DEATHS + 1)} times; see Ray's log"
                job.fail(item, self._reasons.get(number, died))
        job.result.stopped = self._stop.is_set() and bool(job.result.left)

    def _ends(self) -> bool:
        return self._stop.is_set() or self._job.lost

    def _give_out(self) -> None:
        if not self._open or self._ends():
            return
        import ray

        try:
            for row in self._make_dataset().iter_rows():
                self._note(cast(WorkerResult, row["result"]))
                if self._ends():
                    return
        except ray.exceptions.RayError as error:
            raise BackendError(f"Ray gave up: {first_line(error)}") from error

    def _make_dataset(self) -> ray.data.Dataset:
        """What is open, a file a block: a worker that dies loses no more than one."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.max_errored_blocks = -1  # files of workers that died are given out again
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # reasons are told by the job
        fleet, queue_depth = self._fleet, _FILES_ON_GPU if self._fleet.on_gpus else 1
        rows = [{"number": number, "item": _make_absolute(item)} for number, item in self._open.items()]
        strategy = ray.data.ActorPoolStrategy(
            size=min(fleet.workers, len(rows)),
            max_tasks_in_flight_per_actor=queue_depth,
            max_concurrent_calls_per_actor=queue_depth,
            enable_true_multi_threading=True,
        )
        with warnings.catch_warnings(action="ignore"):  # `max_task_retries` gets another place in Ray 2.64
            return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                Worker,
                fn_constructor_args=(fleet.config, self._job.settings, fleet.threads),
                batch_size=1,
                batch_format="numpy",
                compute=strategy,
                num_cpus=1,
                num_gpus=int(fleet.on_gpus),
                max_task_retries=_DEATHS,
            )

    def _note(self, result: WorkerResult) -> None:
        number = result.number
        item = self._open[number]
        reason = result.reason
        for path in (item.source, item.target):  # as they were given here
            reason = reason.replace(str(path.absolute()), str(path))
        if result.device_failed:
            self._reasons[number] = reason
            return
        del self._open[number]
        if result.done is not None and result.stamp is not None:
            done = replace(result.done, source=item.source, target=item.target)
            try:
                self._job.finish(item, done, result.sha256, result.stamp, result.config_hash)
            except OutputError as error:
                self._job.fail(item, describe_error(error), lost=True)
            if number in self._reasons:
                self._job.result.faults.append(self._reasons[number])
        else:
            self._job.fail(item, reason, lost=result.lost)
        self._progress.show(number, 1.0)


def _make_absolute(item: Item) -> Item:
    """Workers have another current folder."""
    return replace(item, source=item.source.absolute(), target=item.target.absolute())


@contextlib.contextmanager
def _connecting(address: str) -> Iterator[None]:
    """Ray, for as long as it is needed; one that the process has already is used and left."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # deaths of workers are told by the job
    ray = require("ray", _PURPOSE)
    require("ray.data", _PURPOSE)
    _require_reachable(address)
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": usable_cores(), "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        with _without_reporter():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(own if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"no Ray cluster at {address!r}: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _without_reporter() -> Iterator[None]:
    """Let Ray leave out the process that reports its use.

    Without a dashboard it has no other task. Switched off, it reports nothing and still asks the metadata services of
    three clouds which of them runs this machine (Ray 2.60).
    """
    from ray._private import services

    start = services.start_api_server
    services.start_api_server = lambda *_, **__: (None, None)
    try:
        yield
    finally:
        services.start_api_server = start


def _require_reachable(address: str) -> None:
    """Ray itself would wait for minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--ray takes local, auto or HOST:PORT of a cluster, as in 10.0.0.1:6379, not {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster at {address}: {error}; start one with: ray start --head") from error
