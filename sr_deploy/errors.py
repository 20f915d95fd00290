"""Everything that sr-deploy raises on purpose.

Each message says what was wrong, the value seen, what is allowed and what to do, in one line: the command line prints
it as it is.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from sr_deploy.legible import shorten

_PACKAGE = Path(__file__).parent
_REPORT = (
    "this is a fault of sr-deploy: please report it with the command and with what it prints when "
    "SR_DEPLOY_TRACEBACK=1 stands in front"
)
_MAX_SURPRISE = 300
"""Characters of its message that are told."""


class SrDeployError(Exception):
    """Root of all errors that the user or the machine can mend."""

    exit_code = 1


class InputError(SrDeployError):
    """A file, folder or value that the user gave cannot be used."""


class UnsafePathError(InputError):
    """A name of a file that was read from a file, or a link, leads out of the folder that it has to stay in."""


class NothingFoundError(InputError):
    """There is nothing at all of what was looked for; nothing has failed."""


class CheckpointError(InputError):
    """A file of weights is unsafe, damaged, of an unknown layout, or contradicts itself."""


class DiscriminatorFoundError(CheckpointError):
    """A file holds a discriminator where a generator is due."""


class GraphError(InputError):
    """An ONNX file cannot be read as one image in, one image out."""


class BundleError(InputError):
    """A bundle is incomplete or was changed after it was made."""


class DamagedBundleError(BundleError):
    """A file of a bundle is missing, damaged, or was changed after it was recorded."""


class RecipeError(InputError):
    """A recipe or a deployment spec does not validate."""


class ImageError(InputError):
    """A picture cannot be read, or holds something that the command does not take."""


class VideoError(InputError):
    """A video cannot be read, holds something that the command does not take, or what was made of it is not whole."""


class ShapeError(InputError):
    """A shape lies outside what a profile, an engine or a network takes."""


class OutputError(SrDeployError):
    """Something could not be written (no permission, no space, a folder in the way)."""


class PlaceLostError(OutputError):
    """Nothing more can be written there: the disk is full or gone, or the folder is not what it was."""


class LockedError(InputError):
    """Another process is writing there."""


class BackendError(SrDeployError):
    """A backend cannot run or build here, or failed while it did."""


class OutOfMemoryError(BackendError):
    """A backend had no memory for this shape; a smaller one may go."""


class GuardError(BackendError):
    """A network's output is not a picture of its input, in FP32 too: it must not be written."""


class MissingDependencyError(SrDeployError):
    """An optional package is needed and absent; the message carries the command that installs it."""


class TrainingError(SrDeployError):
    """Training cannot go on (a loss that is NaN or infinite, a run that does not match its recipe)."""


class VerificationError(SrDeployError):
    """An artifact does not compute what the reference computes."""

    exit_code = 3


# How allocators say that there is no more: torch's on the CPU, ONNX Runtime's arenas, OpenVINO's and oneDNN's, C++'s
# own, CUDA's and TensorRT's. Their exceptions are plain RuntimeErrors.
_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|not enough memory|can(no|')t allocate memory|(failed|unable|could not) (to )?allocate"
    r"|bad_alloc|bad allocation|memoryallocation",
    re.IGNORECASE,
)

# What OpenVINO begins with: places in its source, and headings.
_TELLS_NOTHING = re.compile(
    r"Exception from |Check '.*' failed at |FrontEnd API failed|Model wasn't fully|Summary:|\s*$"
)


def find_want_of_memory(error: BaseException) -> str | None:
    """The line of an exception that says that there was no memory; None: it was something else."""
    telling = next((line.strip() for line in str(error).splitlines() if _OUT_OF_MEMORY.search(line)), None)
    if telling is None and (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
        return "not enough memory"
    return telling


def first_line(error: BaseException) -> str:
    """The first line of a library's message that tells something; the exception's type where it has no message."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return next((line.strip(" -") for line in lines if not _TELLS_NOTHING.match(line)), lines[0])


def one_line(error: BaseException, max_length: int | None = 200) -> str:
    """All lines of a library's message in one, cut after `max_length` characters; None: whole."""
    return " ".join(str(error).split())[:max_length]


def describe_surprise(error: BaseException) -> str:
    """Type, message and place of an exception that nobody foresaw, in one line that asks for a report."""
    cause = getattr(error, "cause", None)  # Ray's errors carry the worker's own
    if isinstance(cause, BaseException):
        error = cause
    # Libraries put whole tracebacks into their messages.
    said = " ".join(str(error).partition("Traceback (most recent call last)")[0].split())
    frames = ((Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__))
    ours = [f"{file.relative_to(_PACKAGE.parent).as_posix()}:{line}" for file, line in frames if _is_ours(file)]
    message = f": {shorten(said, _MAX_SURPRISE)}" if said else ""
    place = f" (at {ours[-1]})" if ours else ""
    return f"internal: {type(error).__name__}{message}{place}; {_REPORT}"


def _is_ours(file: Path) -> bool:
    return file.is_relative_to(_PACKAGE)
