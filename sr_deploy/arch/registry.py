"""The architectures: each is one module in `sr_deploy.arch.networks`, found by its file name when asked for.

Other packages may bring more: an entry point of the group `sr_deploy.architectures` names an architecture and the
module that holds its `ARCHITECTURE`.

No torch is imported here before a network is asked for.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sr_deploy.arch.keys import Shapes
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.config import validate_config
from sr_deploy.errors import InputError
from sr_deploy.plugins import find_modules

if TYPE_CHECKING:
    from torch import nn

SpecT = TypeVar("SpecT", bound=ArchSpec)

_TRACED_CELLS = 4
_MOST_PARAMETERS = 2**28
"""Of a network whose cost is asked for: they take memory then, 1 GiB at most."""


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network, as far as its cost goes."""

    in_channels: int
    out_channels: int
    kernel: int
    """Side of its square kernel."""
    resolution: Fraction
    """Pixels of its output per pixel of the network's input, along a side."""


@dataclass(frozen=True)
class Layout:
    """A way in which published files name the tensors of an architecture."""

    name: str
    """Short name, as `sr-deploy info` prints it."""
    signature: str
    """The keys that it is known by, for people."""
    matches: Callable[[Shapes], bool]
    """Whether a state dict with these keys is in this layout."""
    rename: Callable[[Shapes], dict[str, str]]
    """Our key for each key of the file; a key that means nothing stays as it is, and is refused later. What other
    tensors of the file say too is left out, and `infer` sees it under its own key."""


@dataclass(frozen=True)
class Architecture(Generic[SpecT]):
    """Everything that is known of one kind of generator."""

    title: str
    """Name for people, with its source."""
    spec: type[SpecT]
    """Its options, with what they may be; unknown ones are refused."""
    build: Callable[[SpecT], nn.Module]
    """The network, initialized for training."""
    infer: Callable[[Shapes], SpecT]
    """The spec that a state dict with our keys has. Raises CheckpointError (no file name in it)."""
    layouts: tuple[Layout, ...]
    """How published files name its tensors."""
    input_multiple: Callable[[SpecT], int] = lambda _spec: 1
    """Height and width of the input must be multiples of this."""
    is_bounded: Callable[[SpecT], bool] = lambda _spec: True
    """Whether an output pixel depends on input pixels near it alone; False where the network takes statistics of the
    whole picture, or reads from places that it computes."""
    moving_names: Callable[[SpecT], Mapping[str, str]] = lambda _spec: {}
    """Names by which networks of other sizes share the modules whose own names depend on the size, by own name."""
    readings: Callable[[SpecT], Sequence[SpecT]] = lambda spec: (spec,)
    """The networks that a file of an inferred spec may hold, where shapes do not tell, likeliest first: the first one
    that gives a picture for a picture is taken (`arch.readings`)."""
    merged: Callable[[SpecT], SpecT] = lambda spec: spec
    """The spec of the network once its branches are merged (`arch.fold.merge_branches`)."""
    known_as: Callable[[SpecT], str | None] = lambda _spec: None
    """What people call a network of these options; None: nothing of its own."""
    last_features: Callable[[SpecT], str | None] = lambda _spec: None
    """Name of the module that gives the last feature map before the upsampling, which networks learn from each other
    by; None: not said."""


@dataclass(frozen=True)
class Cost:
    """What a network needs for each pixel of its input."""

    parameters: int
    """Trained numbers (buffers such as the statistics of a batch normalization are not counted)."""
    flops_per_input_pixel: float
    """Floating-point operations of the convolutions, two for each multiply-add."""
    receptive_radius: int | None
    """Input pixels on each side of an output pixel's own input pixel that can change it; None: all may."""


def _find_modules() -> Mapping[str, str]:
    return find_modules("sr_deploy.arch.networks", "sr_deploy.architectures")


def architecture_names() -> tuple[str, ...]:
    """Names of all architectures, sorted."""
    return tuple(sorted(_find_modules()))


@cache
def get_architecture(name: str) -> Architecture[Any]:
    """The architecture of that name.

    Raises:
        InputError: there is none; the message lists those known.
    """
    if name not in architecture_names():
        raise InputError(f"unknown architecture {name!r}; known: {', '.join(architecture_names())}")
    module = importlib.import_module(_find_modules()[name])
    architecture: Architecture[Any] = module.ARCHITECTURE
    return architecture


def list_layouts() -> list[tuple[Architecture[Any], Layout]]:
    """Every layout of every architecture."""
    return [(arch, layout) for arch in map(get_architecture, architecture_names()) for layout in arch.layouts]


def find_layout(shapes: Shapes) -> tuple[Architecture[Any], Layout] | None:
    """The layout that a generator's keys are in; None if no known one."""
    return next(((arch, layout) for arch, layout in list_layouts() if layout.matches(shapes)), None)


def complete_spec(spec: ArchSpec) -> ArchSpec:
    """The same with the options that its architecture has, each checked, defaults filled in.

    Raises:
        InputError: unknown architecture.
        RecipeError: an option that it does not have, that is missing, or whose value it does not take.
    """
    architecture = get_architecture(spec.architecture)
    found: ArchSpec = validate_config(spec.model_dump(), architecture.spec, f"the network {spec.architecture}")
    return found


def build_network(spec: ArchSpec) -> nn.Module:
    """The network that `spec` describes, initialized for training, on the CPU, in fp32.

    Its forward takes N x C x H x W in [0, 1] and gives N x C x (H * scale) x (W * scale), not clamped.

    Raises:
        InputError: unknown architecture, or a value that it does not take.
    """
    if spec.channels not in (1, 3):
        raise InputError(f"a network has 1 or 3 channels, not {spec.channels}")
    network: nn.Module = get_architecture(spec.architecture).build(complete_spec(spec))
    return network


def merged_spec(spec: ArchSpec) -> ArchSpec:
    """The network once its branches are merged; most have none.

    Raises:
        InputError: unknown architecture, or a value that it does not take.
    """
    return ArchSpec(**get_architecture(spec.architecture).merged(complete_spec(spec)).model_dump())


def input_multiple(spec: ArchSpec) -> int:
    """What height and width of the network's input must be multiples of.

    Raises:
        InputError: unknown architecture.
    """
    multiple: int = get_architecture(spec.architecture).input_multiple(complete_spec(spec))
    return multiple


def describe_cost(spec: ArchSpec) -> Cost:
    """Parameters, arithmetic and receptive field of the network.

    Raises:
        InputError: unknown architecture, or a value that it does not take.
    """
    is_bounded = get_architecture(spec.architecture).is_bounded(complete_spec(spec))
    convolutions, parameters = _trace(spec.model_dump_json(exclude_none=True))
    multiply_adds = sum(
        (conv.in_channels * conv.out_channels * conv.kernel**2 * conv.resolution**2 for conv in convolutions),
        start=Fraction(0),
    )
    return Cost(
        parameters=parameters,
        flops_per_input_pixel=float(2 * multiply_adds),
        receptive_radius=_receptive_radius(convolutions, spec.scale) if is_bounded else None,
    )


@lru_cache(maxsize=8)
def _trace(spec_json: str) -> tuple[tuple[Convolution, ...], int]:
    """The convolutions of a network, watched while it upscales a few pixels, and the count of its parameters."""
    import torch
    from torch import nn

    from sr_deploy.arch.fold import merge_branches

    spec = ArchSpec.model_validate_json(spec_json)
    with torch.device("meta"):
        network = build_network(spec)
    parameters = _count_parameters(network)
    if parameters > _MOST_PARAMETERS:
        raise InputError(f"{spec.title()} has {parameters:.2g} parameters; up to {_MOST_PARAMETERS:.2g} are taken")
    # Whatever its weights are, its shapes are the same.
    network = merge_branches(network.to_empty(device="cpu").eval().requires_grad_(False))
    side = _TRACED_CELLS * input_multiple(spec)
    found: list[Convolution] = []

    def note(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        resolution = Fraction(output.shape[-1], side)
        found.append(Convolution(module.in_channels, module.out_channels, module.kernel_size[0], resolution))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, spec.channels, side, side))
    return tuple(found), _count_parameters(network)


def _count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def list_convolutions(spec: ArchSpec) -> Sequence[Convolution]:
    """Convolutions of a network from input to output, as if all lay on one path, the longest.

    Raises:
        InputError: unknown architecture, or a value that it does not take.
    """
    return _trace(spec.model_dump_json(exclude_none=True))[0]


def _receptive_radius(convolutions: Sequence[Convolution], scale: int) -> int:
    """Follow each output pixel of one period back to the interval of input pixels that it depends on."""
    period = max(scale, *(int(conv.resolution.denominator) for conv in convolutions), 1)
    # Convolutions at one resolution reach as far as one with all their kernels.
    groups = itertools.groupby(reversed(convolutions), key=lambda conv: conv.resolution)
    reaches = [(resolution, sum(conv.kernel // 2 for conv in group)) for resolution, group in groups]
    radius = 0
    for output in range(scale * period):
        low = high = output
        resolution = Fraction(scale)
        for inner, reach in reaches:
            low, high = _follow_back(low, high, resolution / inner)
            low, high, resolution = low - reach, high + reach, inner
        low, high = _follow_back(low, high, resolution)
        own = output // scale
        radius = max(radius, own - low, high - own)
    return radius


def _follow_back(low: int, high: int, factor: Fraction) -> tuple[int, int]:
    """The interval before a change of resolution: `factor` above 1 enlarged the picture, below 1 shrank it."""
    if factor >= 1:
        return low // int(factor), high // int(factor)
    shrink = int(1 / factor)
    return low * shrink, high * shrink + shrink - 1
