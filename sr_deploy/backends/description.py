"""The typed object in which a backend describes itself. Everything else asks it, and names no backend."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from sr_deploy.backends.choice import PRECISIONS, BackendChoice, Precision
from sr_deploy.deps import Package

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sr_deploy.engine.build import BuiltEngine
    from sr_deploy.engine.request import EngineRequest
    from sr_deploy.model import Model
    from sr_deploy.progress import OnProgress
    from sr_deploy.runners.protocol import Runner

DeviceKind = Literal["cpu", "cuda"]
Artifact = Literal["weights", "graph", "engine"]
"""The file of a model that a backend runs: PyTorch weights, an ONNX graph or an engine."""
Arithmetic = Literal["fast", "as written", "rounded"]
"""`fast`: as the backend does it. `as written`: node by node, nothing optimized. `rounded`: in FP32, each result then
rounded to the type that the graph stores it in."""


DEFAULT_LAYOUT = "nchw"
"""Variant of the reference backend of weights: PyTorch's own memory layout of feature maps."""


@dataclass(frozen=True)
class RunOptions:
    """How a runner is opened."""

    device: str | None = None
    """`cpu` or `cuda:0`; None: the GPU where the backend has one, else the CPU."""
    threads: int | None = None
    """Of the CPU; None: one a core, or what the process has set."""
    rewrite: bool = True
    """Whether the runner may bring an FP32 graph into the form that it runs fastest on a CPU."""
    variant: str | None = None
    """Name of one of `Backend.variants`; None: as `sr-deploy upscale` runs it."""
    arithmetic: Arithmetic = "fast"
    """Other than `fast` only for the reference backend of graphs."""


@dataclass(frozen=True)
class GraphOptions:
    """How a graph in memory is opened."""

    threads: int | None = None
    """Of the CPU; None: as the library does by itself."""
    optimize: bool = True
    """False: node by node as it is written, where the backend can."""
    plan_memory: bool = True
    """Whether it is planned ahead which tensors share memory, which takes long for graphs of many nodes."""


@dataclass(frozen=True)
class OpenedGraph:
    """A graph that is ready to run."""

    inputs: tuple[str, ...]
    run: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
    """From the inputs to all outputs, by name."""


@dataclass(frozen=True)
class Auto:
    """What `--backend auto` may take on one kind of device."""

    rank: int
    """Place among the backends; the lowest takes its turn first."""
    reduced: tuple[BackendChoice, ...] = ()
    """Choices below FP32, in their order, where the certificate covers them. FP32 is always taken."""


@dataclass(frozen=True)
class Variant:
    """Another way to run the same network, timed for comparison: `+NAME` of `sr-deploy bench`."""

    name: str
    """What follows the plus, as in `fixed`."""
    precisions: tuple[Precision, ...] = PRECISIONS
    """In which it exists."""
    why_not: Callable[[BackendChoice], str | None] = lambda _choice: None
    """Why it does not run on this machine, as what follows its name in a message; None: it does."""
    is_listed: Callable[[], bool] = lambda: False
    """Whether it belongs to what is compared when nobody says what."""
    why_left_out: str | None = None
    """Why it is then named but not timed; None: it is timed."""
    makes_artifact: bool = False
    """Whether what it runs is built for it on a GPU, so that nothing need be there before."""


@dataclass(frozen=True)
class Difference:
    """What an engine has where another one is due."""

    what: str
    """In words, for one line."""
    places: tuple[int, ...] = ()
    """Bytes of the other engine that this one has otherwise, outside the listing, in their order; of many the first."""


@dataclass(frozen=True)
class EngineBuilder:
    """What builds the engines of a backend from ONNX graphs, with an SDK that has TensorRT's interface."""

    build: Callable[[EngineRequest, bytes | None, OnProgress], BuiltEngine]
    """Build one engine, given what earlier builds learnt of kernels' times (None: keep nothing). Asked by
    `engine.build.build_engine`, which says what is raised."""
    select_sdk: Callable[[], ModuleType]
    """Choose the SDK for the rest of the process and import it. Raises BackendError where the process has another one,
    MissingDependencyError where it is absent."""
    tag: bytes
    """First bytes of an engine file."""
    list_capabilities: Callable[[], tuple[str, ...]] | None = None
    """Compute capabilities that it builds for without a GPU, as in `("sm75", "sm86")`; None: it builds for the GPU that
    is here alone. Raises MissingDependencyError where the SDK is absent."""
    absent_options: Mapping[str, str] = field(default_factory=dict)
    """Settings of `EngineOptions` that the SDK does not have, and what serves instead."""
    options_on_gpu: tuple[str, ...] = ()
    """Settings that it takes only where there is a GPU."""
    find_difference: Callable[[bytes, bytes], Difference | None] | None = None
    """What distinguishes an engine from the one that is due; None if sound builds differ no less. Without it no two
    builds are alike, and an engine cannot be built again to be compared."""
    states_length: bool = False
    """Whether the header of an engine file states its length."""
    keeps_timings: bool = False
    """Whether it times kernels while it builds, and keeps the times for the next build."""


@dataclass(frozen=True)
class Backend:
    """All that is known of one backend. Making it imports nothing heavy."""

    name: str
    """As in `--backend NAME`, and as the module or the entry point is called."""
    package: Package
    """What has to be installed."""
    artifact: Artifact
    """The file of a model that it runs."""
    precisions: Mapping[DeviceKind, Mapping[Precision, Precision]]
    """Precisions that exist on each kind of device, and in which each is really computed: `{"fp16": "fp32"}` takes FP16
    graphs and computes in FP32. The order is that of `sr-deploy doctor`."""
    open: Callable[[Model, BackendChoice, RunOptions], Runner]
    """Load a model. Asked only where `why_not_runnable` finds nothing. Raises BackendError and its kinds."""
    order: int = 100
    """Place in lists; those of sr-deploy have 0 to 4."""
    is_reference: bool = False
    """Whether it is the one that others of its artifact are compared with, and the baseline of `bench`."""
    why_absent: Callable[[BackendChoice], str] = lambda choice: f"{choice} does not exist"
    """What to say of a precision that it does not have."""
    why_not_here: Callable[[BackendChoice], str | None] = lambda _choice: None
    """Why this machine does not compute so, once the package is installed; None: it does. It may import the package."""
    describe_runs: Callable[[], tuple[str, ...]] | None = None
    """What `sr-deploy doctor` says that runs here, as in `cpu fp32 bf16`; None: what `precisions` says of the CPU."""
    find_stored: Callable[[Collection[Precision], Precision], Precision] = lambda _held, precision: precision
    """Of which precision the graph is that it runs, given the model's graphs and what is asked."""
    uniform: tuple[Precision, ...] = ("bf16",)
    """Precisions in which the whole network is computed, whatever the graph says of single layers."""
    mixed: tuple[BackendChoice, ...] = ()
    """INT8 with the rest in a faster type than FP32, on CPUs that have it."""
    slow: tuple[Precision, ...] = ()
    """Precisions that a CPU computes too slowly for speed to mean anything."""
    why_untimed: Callable[[BackendChoice], str | None] = lambda _choice: None
    """Why the pace of a choice says nothing on this machine; None: it does."""
    auto: Mapping[DeviceKind, Auto] = field(default_factory=dict)
    """What `--backend auto` may take."""
    variants: tuple[Variant, ...] = ()
    """Other ways in which `bench` runs it."""
    find_verified: Callable[[Collection[Precision], Precision], Sequence[Precision]] = lambda _held, one: (one,)
    """In which precisions it says something about a model's graph of a precision, given those of all its graphs."""
    is_on_device: bool = False
    """Whether its runners take PyTorch's tensors on a GPU (`DeviceRunner`)."""
    loads: Package | None = None
    """What `bench` imports to time how long loading takes; None: `package`."""
    open_graph: Callable[[Path | bytes, GraphOptions], OpenedGraph] | None = None
    """Open a graph with all its outputs, on the CPU in FP32; None: it cannot. Raises what its library raises."""
    is_exact: Callable[[Precision], bool] = lambda _precision: False
    """Whether `open_graph` computes quantized graphs of a precision exactly here, and faster than the reference."""
    triton: str | None = None
    """Name of the backend of NVIDIA's Triton Inference Server that runs the same files; None: there is none."""
    builder: EngineBuilder | None = None
    """What builds its engines; None for a backend that runs none."""

    def exists(self, precision: Precision) -> bool:
        """Whether there is such a precision on any device."""
        return any(precision in known for known in self.precisions.values())

    def computes_in(self, precision: Precision, device: DeviceKind) -> Precision:
        """In which precision it really multiplies what is stated in `precision`; FP32 on a CPU if it does not say."""
        return self.precisions.get(device, {}).get(precision, "fp32" if device == "cpu" else precision)
