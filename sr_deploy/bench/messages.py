"""What `bench` and the process of a candidate say to each other, as JSON."""

from __future__ import annotations

from typing import Literal, TypedDict

from sr_deploy.graph.io_dtype import Dtype

FILE_FORMAT = "png"
"""Of the pictures in `files` and of the results."""


class OpenRequest(TypedDict):
    """Load a candidate and put its output for `input` into `output`."""

    model: str
    choice: str | None  # None: the reference
    threads: int
    input: str
    output: str
    files: str  # folder of the same input as pictures
    warm_up_seconds: float
    trust: dict[str, bool]  # fields of `EngineTrust`


class OpenAnswer(TypedDict):
    """What was loaded, what that took, and what a call takes once warm."""

    version: str
    rewrites: list[str]
    device: str
    dtype: Dtype
    arrays: str
    cold_seconds: ColdSeconds
    warm_up_calls: int
    steady: bool
    call_seconds: float
    copies: CopiesAnswer | None
    import_mib: float
    device_mib: float | None


class ColdSeconds(TypedDict):
    """The parts of a cold start."""

    imported: float
    loaded: float
    first_call: float
    built: float | None


class CopiesAnswer(TypedDict):
    """Input to a GPU and output back; None where the backend copies inside its call."""

    bytes: int
    seconds: float | None
    device_seconds: float | None


class DeviceAnswer(TypedDict):
    """Of each call that was timed alone on a GPU."""

    device_seconds: list[float]
    enqueue_seconds: list[float]


TurnKind = Literal["calls", "files", "pipelined"]
"""One call after the other; each from the pictures on disk to the pictures on disk; several in flight on a GPU."""
