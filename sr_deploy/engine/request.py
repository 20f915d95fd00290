"""What is asked of a builder, and the key that tells whether an engine still answers to it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sr_deploy import trt
from sr_deploy.backends import Backend, Precision
from sr_deploy.bundle import EngineRecord, Profile, engine_key
from sr_deploy.errors import MissingDependencyError

DEFAULT_FLAGS = {"strongly_typed": "on", "tf32": "off"}
"""Settings of the builder beside the profiles. `tf32` may be `on`; `strongly_typed` is always on."""


class EngineRequest(BaseModel):
    """One engine to build."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: Path
    """The ONNX file."""
    graph_sha256: str
    """Its hash."""
    precision: Precision
    """Precision that its convolutions are meant to have."""
    backend: Backend
    """`tensorrt` or `tensorrt-rtx`."""
    profiles: tuple[Profile, ...] = Field(min_length=1)
    """Shapes that the engine must take."""
    compute_capabilities: tuple[str, ...] = ()
    """What to build for, as in `("sm86", "sm89")`, in the SDK's order; empty for `tensorrt`."""
    flags: dict[str, str] = DEFAULT_FLAGS
    """As `DEFAULT_FLAGS`."""

    def backend_version(self) -> str:
        """Version of the SDK that would build.

        Raises:
            MissingDependencyError: it is not installed.
        """
        version = trt.sdk_version(self.backend)
        if version is None:
            raise MissingDependencyError(trt.why_not_buildable(self.backend) or f"{self.backend} has no version")
        return version

    def target(self) -> str:
        """What the engine would be built for: compute capabilities, or the GPU here.

        Raises:
            BackendError: `tensorrt`, and there is no GPU.
        """
        return trt.describe_target(self.backend, self.compute_capabilities)

    def key(self) -> str:
        """Key of the engine that would be built now; an engine with another one is stale.

        Raises:
            MissingDependencyError: the SDK is not installed.
            BackendError: `tensorrt`, and there is no GPU.
        """
        return engine_key(
            graph_sha256=self.graph_sha256,
            backend=self.backend,
            backend_version=self.backend_version(),
            target=self.target(),
            profiles=self.profiles,
            flags=self.flags,
        )

    def replaces(self, record: EngineRecord) -> bool:
        """Whether `record` is an older engine for the same purpose: same backend, precision and target, another key."""
        purpose = (self.backend, self.precision, self.target())
        return (record.backend, record.precision, record.target) == purpose and record.key != self.key()
