"""One picture: load a network once, then upscale as many pictures as you like."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import TENSORRT_BACKENDS, BackendChoice, parse_backend
from sr_deploy.errors import BackendError, InputError, ShapeError
from sr_deploy.files import output_error
from sr_deploy.imaging.codec import read_image, require_output_size, require_output_suffix, require_picture, write_image
from sr_deploy.imaging.convert import to_image, to_nchw
from sr_deploy.model import Model, open_model
from sr_deploy.runners import open_runner, runnable_choices, why_not_runnable
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.trt import visible_gpus
from sr_deploy.upscale.tiles import MAX_HALO, TilePlan, plan_tiles, run_tiles

OnTile = Callable[[int, int], None]
"""Called after each tile with the number done and the number of all."""

_AUTO_ORDER = (BackendChoice("openvino"), BackendChoice("onnxruntime"), BackendChoice("torch"))


@dataclass(frozen=True)
class UpscaledFile:
    """What `upscale_file` did."""

    source: Path
    """The picture read."""
    target: Path
    """The picture written."""
    width: int
    """Of the source, in pixels."""
    height: int
    """Of the source, in pixels."""
    scale: int
    """Target pixels per source pixel along each side."""
    tiles: int
    """Number of tiles it went through in; 1: the whole picture at once."""
    seconds: float
    """Time the network took, without decoding and encoding."""


class Upscaler:
    """A network that upscales 8-bit pictures of any size, whole or in overlapping tiles.

    Safe to share between threads: calls take turns. Example::

        with Upscaler("deployments/demo") as upscale:
            sr = upscale(lr)  # H x W x 3 uint8 -> (H * scale) x (W * scale) x 3 uint8
    """

    def __init__(
        self,
        model: Path | str | Model | Runner,
        *,
        backend: str | BackendChoice = "auto",
        tile: int | None = None,
        halo: int | None = None,
    ) -> None:
        """Load a network.

        Args:
            model: a checkpoint, graph, bundle or engine (a path, or opened), or a runner, which stays the caller's to
                close.
            backend: `auto` or as in `openvino:fp32`; a runner has its own.
            tile: side of a tile's core in input pixels; 0: always the whole picture; None: whole if small, else 256.
            halo: overlap on each side of a tile; None: as far as the network sees, but at most `MAX_HALO`.

        Raises:
            InputError: no such model, or `backend` given together with a runner.
            ShapeError: a negative tile or halo.
            BackendError: the backend does not run here.
        """
        for name, value in (("tile", tile), ("halo", halo)):
            if value is not None and value < 0:
                raise ShapeError(f"{name} must be 0 or more pixels, not {value}")
        self._tile = tile
        self._lock = threading.Lock()
        if isinstance(model, (Path, str, Model)):
            model = model if isinstance(model, Model) else open_model(Path(model))
            self._runner = open_runner(model, choose_backend(model, backend))
            self._owns_runner = True
            self.receptive_radius = find_receptive_radius(model) if halo is None else None
        else:
            if backend != "auto":
                raise InputError(f"this runner computes with {model.spec}; leave backend={str(backend)!r} out")
            self._runner = model
            self._owns_runner = False
            self.receptive_radius = None
        reach = MAX_HALO if self.receptive_radius is None else min(self.receptive_radius, MAX_HALO)
        self.halo = reach if halo is None else halo

    @property
    def spec(self) -> RunnerSpec:
        """What computes, where, and by which scale."""
        return self._runner.spec

    def plan(self, height: int, width: int) -> TilePlan:
        """How a picture of that size will be cut.

        Raises:
            ShapeError: an empty picture, or no profile of the engine takes it.
        """
        spec = self._runner.spec
        return plan_tiles(
            height, width, tile=self._tile, halo=self.halo, multiple=spec.input_multiple, profiles=spec.profiles
        )

    def __call__(self, image: NDArray[np.uint8], on_tile: OnTile | None = None) -> NDArray[np.uint8]:
        """Upscale a picture.

        Args:
            image: H x W x C, 8 bit; RGB, or gray for a network of one channel.
            on_tile: told about progress.

        Returns:
            (H * scale) x (W * scale) x C, 8 bit.

        Raises:
            ShapeError: not such a picture.
            BackendError: the backend failed, or gave values that are not finite.
        """
        spec = self._runner.spec
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != spec.channels:
            shape = " x ".join(map(str, image.shape)) or "no axes"
            raise ShapeError(f"{spec} takes 8-bit pictures H x W x {spec.channels}, not {shape} of {image.dtype}")
        height, width = image.shape[:2]
        plan = self.plan(height, width)
        result = np.empty((height * spec.scale, width * spec.scale, spec.channels), np.uint8)
        written = 0
        with self._lock:
            for done, piece in enumerate(run_tiles(self._runner, to_nchw(image), plan), start=1):
                part = to_image(piece.sr)
                result[piece.top : piece.top + part.shape[0], piece.left : piece.left + part.shape[1]] = part
                written += part.size
                if on_tile is not None:
                    on_tile(done, plan.count)
        if written != result.size:
            raise BackendError(f"internal: tiles gave {written} samples of {result.size}; please report this picture")
        return result

    def close(self) -> None:
        """Release the network, unless it was given as a runner."""
        if self._owns_runner:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose_backend(model: Model, backend: str | BackendChoice) -> BackendChoice:
    """The backend that is asked for, or the first that runs here.

    `auto` is, where there is an NVIDIA GPU, an engine that fits it, else PyTorch on it; without a GPU OpenVINO, ONNX
    Runtime, PyTorch, in this order, in fp32.

    Raises:
        InputError: no such backend.
        BackendError: nothing runs this model here; the message says why not.
    """
    if isinstance(backend, BackendChoice):
        return backend
    if backend != "auto":
        return parse_backend(backend)
    runnable = runnable_choices(model)
    engines = tuple(choice for choice in runnable if choice.backend in TENSORRT_BACKENDS)
    on_cpu = tuple(choice for choice in _AUTO_ORDER if choice in runnable)
    if visible_gpus():
        on_gpu = tuple(choice for choice in on_cpu if choice.backend == "torch" and _torch_sees_gpu())
        on_cpu = (*engines, *on_gpu, *on_cpu)
    if on_cpu:
        return on_cpu[0]
    if runnable:
        return runnable[0]
    reasons = (why_not_runnable(model, choice) for choice in _AUTO_ORDER)
    raise BackendError(f"nothing runs {model.path} here: {'; '.join(filter(None, reasons))}")


def find_receptive_radius(model: Model) -> int | None:
    """How far the network looks around a pixel, in input pixels; None if neither a graph nor a spec tells."""
    if model.precisions:  # the graph first: reading it needs no torch
        from sr_deploy.graph.read import describe_graph_cost

        return describe_graph_cost(model.graph_path(model.precisions[0])).receptive_radius
    if model.arch is not None:
        from sr_deploy.arch.registry import describe_cost

        return describe_cost(model.arch).receptive_radius
    return None


def upscale_file(upscaler: Upscaler, source: Path, target: Path, on_tile: OnTile | None = None) -> UpscaledFile:
    """Read, upscale and write one picture; the format of the result goes by the suffix of `target`.

    Raises:
        ImageError: the source cannot be read or is of a kind not taken, or the target's suffix is unknown.
        InputError: both are the same file.
        OutputError: the target cannot be written.
        BackendError: the backend failed, or gave values that are not finite; nothing is written then.
    """
    check_paths(source, target)
    image = read_image(source, channels=upscaler.spec.channels)
    height, width = image.shape[:2]
    scale = upscaler.spec.scale
    require_output_size(target, width * scale, height * scale)
    started = time.perf_counter()
    result = upscaler(image, on_tile)
    seconds = time.perf_counter() - started
    write_image(target, result)
    return UpscaledFile(source, target, width, height, scale, upscaler.plan(height, width).count, seconds)


def check_paths(source: Path, target: Path) -> None:
    """Refuse, before a network is loaded, what cannot end well.

    Raises:
        ImageError: there is no such source, or the target's suffix is unknown.
        InputError: both are the same file.
        OutputError: the target is a folder, or its folder cannot be written.
    """
    require_picture(source)
    require_output_suffix(target)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the picture to read; give another name for the result")
    if target.is_dir():
        raise output_error(target, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
    ancestor = next(folder for folder in target.absolute().parents if folder.exists())
    if not ancestor.is_dir():
        raise output_error(target, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise output_error(target, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def _torch_sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
