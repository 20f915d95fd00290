"""Everything that sr-deploy raises on purpose.

Each message says what was wrong, the value seen, what is allowed and what to do, in one line: the command line prints
it as it is.
"""

from __future__ import annotations


class SrDeployError(Exception):
    """Root of all errors that the user or the machine can mend."""

    exit_code = 1


class InputError(SrDeployError):
    """A file, folder or value that the user gave cannot be used."""


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


class BackendError(SrDeployError):
    """A backend cannot run or build here, or failed while it did."""


class OutOfMemoryError(BackendError):
    """A backend had no memory for this shape; a smaller one may go."""


class GuardError(BackendError):
    """A network's output is no picture of its input, in FP32 too: it must not be written."""


class MissingDependencyError(SrDeployError):
    """An optional package is needed and absent; the message carries the command that installs it."""


class TrainingError(SrDeployError):
    """Training cannot go on (a loss that is no number, a run that does not match its recipe)."""


class VerificationError(SrDeployError):
    """An artefact does not compute what the reference computes."""

    exit_code = 3
