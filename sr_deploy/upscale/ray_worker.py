"""What runs in a worker of a Ray cluster: one network, and file after file from reading to writing. No Ray here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle.trust import BUILT_HERE, EngineTrust
from sr_deploy.errors import BackendError, PlaceLostError
from sr_deploy.files import KeptFolder
from sr_deploy.model import open_model
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.folder_job import describe_error, hash_config, load_item, save_item
from sr_deploy.upscale.folder_journal import Stamp
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings, UpscaledFile, enlarge_image
from sr_deploy.upscale.output_naming import Item


@dataclass(frozen=True)
class WorkerConfig:
    """The model that each worker opens, and how."""

    model: Path
    """As every machine sees it."""
    backend: str = "auto"
    """As `Upscaler` has it."""
    tile: int | None = None
    """As `Upscaler` has it."""
    device: str | None = None
    """`cpu`: one worker for each processor that Ray counts. None: one for each GPU, if Ray has any."""
    batch: int | None = None
    """As `Upscaler` has it."""
    trust: EngineTrust = BUILT_HERE
    """Which engines may be opened: each machine has a registry of what was built there."""

    def open(self, threads: int | None) -> Upscaler:
        """Load the network on the device that this worker has."""
        return Upscaler(
            open_model(self.model, self.trust),
            backend=self.backend,
            tile=self.tile,
            device=self.device,
            threads=threads,
            batch=self.batch,
        )


@dataclass(frozen=True)
class WorkerResult:
    """One file as a worker reports it: written, or failed for a reason."""

    number: int
    """Index of the item in the job."""
    done: UpscaledFile | None = None
    """What it did; None: it failed."""
    sha256: str = ""
    """Of the source's bytes."""
    stamp: Stamp | None = None
    """The source when it was read."""
    config_hash: str = ""
    """Hash of the worker's network and settings."""
    reason: str = ""
    """Why there is no result."""
    device_failed: bool = False
    """Whether another device may do better."""
    lost: bool = False
    """Whether nothing more can be written."""


class Worker:
    """A network on one device."""

    def __init__(self, config: WorkerConfig, settings: FileSettings, threads: int | None) -> None:
        """Load it.

        Raises:
            SrDeployError: as `Upscaler`.
        """
        logging.basicConfig(format="%(message)s")  # warnings go to the log that Ray keeps of each worker
        self._upscaler = config.open(threads)
        self._settings = settings
        self._kept: dict[Path, KeptFolder] = {}
        self._config_hash = hash_config(self._upscaler.spec, settings, config.tile, config.batch)

    def __call__(self, batch: dict[str, NDArray[np.object_]]) -> dict[str, list[WorkerResult]]:
        """A batch of `map_batches`: `number` and `item` of each file in, `result` out."""
        numbers, items = batch["number"].tolist(), batch["item"].tolist()
        return {"result": [self.upscale(number, item) for number, item in zip(numbers, items, strict=True)]}

    def upscale(self, number: int, item: Item) -> WorkerResult:
        """Read, upscale and write a file; what goes wrong is told and not raised."""
        try:
            kept = self._kept.setdefault(item.folder, KeptFolder(item.folder))  # there before there was any work
            kept.require()
            loaded = load_item(item, self._upscaler, self._settings)
            enlarged = enlarge_image(self._upscaler, loaded.picture, self._settings)
            with kept.blamed():
                done = save_item(item, loaded, enlarged, self._settings, kept)
        except Exception as error:  # noqa: BLE001 - one picture's trouble, even unforeseen, is not that of the others
            return WorkerResult(
                number,
                reason=describe_error(error),
                device_failed=isinstance(error, BackendError),
                lost=isinstance(error, PlaceLostError),
            )
        return WorkerResult(number, done, loaded.sha256, loaded.stamp, self._config_hash)


def describe_worker(config: WorkerConfig, threads: int | None) -> tuple[RunnerSpec, int | None]:
    """What a worker computes with, and how far its network looks around a pixel.

    Raises:
        SrDeployError: as `Upscaler`.
    """
    with config.open(threads) as upscaler:
        return upscaler.spec, upscaler.receptive_radius
