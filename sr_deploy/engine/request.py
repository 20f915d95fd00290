"""What is asked of a builder, whether it has such settings, and the key that says if an engine still answers to it."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, Field

from sr_deploy.backends import Precision, builders
from sr_deploy.backends.registry import get_builder
from sr_deploy.bundle import EngineOptions, EngineRecord, Profile, engine_key
from sr_deploy.errors import BackendError, InputError, MissingDependencyError
from sr_deploy.gpus import visible_gpus


class EngineRequest(BaseModel, frozen=True, extra="forbid"):
    """One engine to build."""

    graph: Path
    graph_sha256: str
    precision: Precision
    """Precision that its convolutions are meant to have."""
    backend: str
    """One that has a builder."""
    profiles: tuple[Profile, ...] = Field(min_length=1)
    """Shapes that the engine must take."""
    compute_capabilities: tuple[str, ...] = ()
    """What to build for, as in `("sm86", "sm89")`, in the SDK's order; empty: for the GPU that is here."""
    options: EngineOptions = EngineOptions()
    """Every other setting of the builder."""
    planned_fp32: tuple[str, ...] = ()
    """Nodes of the graph that stay in FP32 on purpose, as its record has them."""

    def backend_version(self) -> str:
        """Version of the SDK that would build.

        Raises:
            MissingDependencyError: it is not installed.
        """
        version = builders.sdk_version(self.backend)
        if version is None:
            raise MissingDependencyError(builders.why_not_buildable(self.backend) or f"{self.backend} has no version")
        return version

    def target(self) -> str:
        """What the engine would be built for: compute capabilities, or the GPU here.

        Raises:
            BackendError: it builds for the GPU that is here alone, and there is none.
        """
        return builders.describe_target(self.backend, self.compute_capabilities)

    def key(self) -> str:
        """Key of the engine that would be built now; an engine with another one is stale.

        Raises:
            MissingDependencyError: the SDK is not installed.
            BackendError: it builds for the GPU that is here alone, and there is none.
        """
        return engine_key(
            graph_sha256=self.graph_sha256,
            backend=self.backend,
            backend_version=self.backend_version(),
            target=self.target(),
            profiles=self.profiles,
            flags=self.options.as_flags(),
        )

    def timing_cache_name(self) -> str | None:
        """Name of the bundle's cache of kernels' times, one for each builder and GPU; None: the SDK keeps none."""
        if not get_builder(self.backend).keeps_timings:
            return None
        return re.sub(r"[^A-Za-z0-9.-]+", "-", f"{self.backend}-{self.backend_version()}-{self.target()}") + ".timing"

    def replaces(self, record: EngineRecord) -> bool:
        """Whether `record` is an older engine for the same purpose: same backend, precision and target, another key."""
        purpose = (self.backend, self.precision, self.target())
        return (record.backend, record.precision, record.target) == purpose and record.key != self.key()


def check_options(backend: str, options: EngineOptions) -> None:
    """Refuse settings that an SDK does not have, by name.

    Raises:
        InputError: the SDK has no such setting; the message says what serves instead.
        BackendError: the SDK has it, and this machine lacks what it takes.
    """
    builder = get_builder(backend)
    for name, instead in builder.absent_options.items():
        if getattr(options, name):
            raise InputError(f"{backend} has no {option_of(name)}: {instead}")
    for name in builder.options_on_gpu:
        if getattr(options, name) and not visible_gpus():
            raise BackendError(
                f"{backend} builds engines with {option_of(name)} only where there is an RTX GPU, and none is "
                "visible here (the driver shows none); leave it out, or build on the machine that will run the engine"
            )


def option_of(name: str) -> str:
    """How the command line spells a setting, as in `--strip-weights`."""
    return "--workspace" if name == "workspace_gib" else f"--{name.replace('_', '-')}"
