"""What every backend looks like from outside: one protocol, so that one takes another's place. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.bundle.profile import Profile
from sr_deploy.errors import ShapeError
from sr_deploy.graph.io_dtype import Dtype, layout_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RunnerSpec:
    """What a runner takes, gives and is."""

    backend: str
    version: str
    precision: Precision
    """In which convolutions compute."""
    device: str
    """What it runs on, as in `cpu` or `cuda:0`."""
    scale: int
    """Output pixels per input pixel along each side."""
    channels: int
    """Of the images, 1 or 3."""
    input_multiple: int = 1
    """Height and width must be multiples of this."""
    profiles: tuple[Profile, ...] = ()
    """Shapes it takes; empty: any."""
    dtype: Dtype = "float32"
    """I/O type of what is run, and of `infer_on_device`; `infer` takes and gives float32 always, and the runner
    converts to and from integers (0 to 255 or 65535)."""
    artifact: Path | None = None
    """The file that it runs: weights, a graph or an engine."""
    floats: Literal["bf16"] | None = None
    """In which precision is computed what an INT8 graph leaves float; None: as the graph says, on CPUs in FP32."""
    rewrites: tuple[str, ...] = ()
    """What the runner changed in the graph when it opened the file, by the names in docs/graph.md."""

    @property
    def layout(self) -> Literal["NCHW", "NHWC"]:
        """Order of the axes of what is run, input and output; `infer` takes and gives NCHW always."""
        return layout_of(self.dtype)

    @property
    def choice(self) -> BackendChoice:
        """Who computes, in which precision."""
        return BackendChoice(self.backend, self.precision, self.floats)

    def __str__(self) -> str:
        return str(self.choice)


@runtime_checkable
class Runner(Protocol):
    """A network, loaded and ready. Use it as a context manager: it may hold device memory."""

    @property
    def spec(self) -> RunnerSpec:
        """What it takes, gives and is."""
        ...

    def infer(self, lr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Upscale a batch.

        Args:
            lr: N x C x H x W, RGB or gray in [0, 1].

        Returns:
            N x C x (H * scale) x (W * scale), not clamped, unless the graph gives integers.

        Raises:
            ShapeError: a shape that the runner does not take.
            BackendError: the backend failed.
        """
        ...

    def close(self) -> None:
        """Release what it holds; a closed runner cannot infer."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_error: object) -> None: ...


@runtime_checkable
class DeviceRunner(Runner, Protocol):
    """A runner on a GPU, which also takes tensors that are already there."""

    def infer_on_device(self, lr: torch.Tensor) -> torch.Tensor:
        """As `infer`, without a host copy; what is queued on the current stream from then on finds the result there."""
        ...


def check_input_shape(lr_shape: tuple[int, ...], spec: RunnerSpec) -> None:
    """Refuse what `spec` does not take, before a backend sees it.

    Raises:
        ShapeError: not four axes, another number of channels, a side that is no multiple of `input_multiple`, or a
            shape outside every profile.
    """
    if len(lr_shape) != 4 or min(lr_shape) < 1:
        raise ShapeError(
            f"{spec} takes N x C x H x W with no empty axis, not {' x '.join(map(str, lr_shape)) or 'a scalar'}"
        )
    n, channels, h, w = lr_shape
    if channels != spec.channels:
        raise ShapeError(f"{spec} takes {spec.channels} channels, not {channels}")
    if h % spec.input_multiple or w % spec.input_multiple:
        raise ShapeError(f"{spec} takes sides that are multiples of {spec.input_multiple}, not {h}x{w}; pad the image")
    if spec.profiles and not any(
        all(low <= side <= high for low, side, high in zip(profile.min, (n, h, w), profile.max, strict=True))
        for profile in spec.profiles
    ):
        raise ShapeError(
            f"{n}x{h}x{w} lies outside what this {spec} takes: {'; '.join(map(str, spec.profiles))}; "
            "use another shape, or build an engine with --profile NAME=MIN,OPT,MAX"
        )
