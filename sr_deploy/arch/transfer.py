"""Weights of one network as the start of another one: more or fewer blocks, another scale, other image channels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from sr_deploy.arch.registry import complete_spec, get_architecture
from sr_deploy.arch.spec import ArchSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

_MAY_DIFFER = frozenset({"blocks", "unshuffle"})
"""Options that leave the shapes of the trunk's tensors as they are."""


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor: names are the keys of state dicts."""

    taken: tuple[str, ...]
    """Of the new network: those that the given one has too."""
    adapted: tuple[str, ...]
    """Of the new network: made of the given one's for other image channels or another pixel-unshuffle."""
    initialized: tuple[str, ...]
    """Of the new network: not there, or of another shape; they stay as they were."""
    unused: tuple[str, ...]
    """Of the given network: those with no place in the new one."""

    @property
    def is_whole(self) -> bool:
        """Whether both are the same network."""
        return not (self.adapted or self.initialized or self.unused)

    def title(self) -> str:
        """One line for people, as in `720 tensors taken, initialized: conv_first, unused: body.6 to body.22`."""
        parts = {"adapted": self.adapted, "initialized": self.initialized, "unused": self.unused}
        lists = [f"{name}: {list_modules(keys)}" for name, keys in parts.items() if keys]
        return ", ".join([f"{len(self.taken)} tensors taken", *lists])


def find_misfit(given: ArchSpec, wanted: ArchSpec) -> str | None:
    """Why no weights of one network can start another, or None if they can.

    Scale, image channels and blocks may differ. What the trunk is made of must be the same.
    """
    if given.architecture != wanted.architecture:
        return f"architecture {given.architecture} instead of {wanted.architecture}"
    before, after = complete_spec(given).options, complete_spec(wanted).options
    names = (name for name in sorted(before | after) if name not in _MAY_DIFFER)
    name = next((name for name in names if before.get(name) != after.get(name)), None)
    return None if name is None else f"{name} {before.get(name)} instead of {after.get(name)}"


def transfer_weights(state: Mapping[str, Tensor], given: ArchSpec, network: nn.Module, wanted: ArchSpec) -> Transfer:
    """Put what fits of a network's weights into another network; the rest of that one stays as it is.

    Tensors are matched by name. Of more blocks the first are taken; where there are fewer, the last stay initialized.
    From 3 channels to 1, the input convolution is the sum over RGB and the output convolution the mean of the three, so
    that the gray network begins with what the RGB one gives for R = G = B, averaged over R, G and B. An input
    convolution behind another pixel-unshuffle begins by seeing the mean of each cell where the given one saw a pixel.

    Args:
        state: of the given network, as `read_checkpoint` gives it.
        given: what network that is.
        network: of `wanted`; changed in place.
        wanted: what network is to be trained; `find_misfit` has nothing against it.
    """
    names = _shared_names(given, state)
    shared = {shared: state[key] for key, shared in names.items()}
    own = network.state_dict()
    found: dict[str, Tensor] = {}
    adapted: list[str] = []
    places = _shared_names(wanted, own)
    for key, place in places.items():
        if place not in shared:
            continue
        tensor, shape = shared[place], tuple(own[key].shape)
        if tuple(tensor.shape) == shape:
            found[key] = tensor
        elif (fitting := _adapt(tensor, shape, given, wanted)) is not None:
            found[key] = fitting
            adapted.append(key)
    network.load_state_dict(found, strict=False)
    used = {places[key] for key in found}
    return Transfer(
        taken=tuple(key for key in found if key not in adapted),
        adapted=tuple(adapted),
        initialized=tuple(key for key in own if key not in found),
        unused=tuple(key for key, place in names.items() if place not in used),
    )


def list_modules(keys: Iterable[str]) -> str:
    """Modules that tensors belong to, blocks that follow each other as a range: `conv_first, body.6 to body.22`."""
    modules = dict.fromkeys(_shorten_key(key) for key in keys)
    parts: list[str] = []
    for prefix, group in groupby(modules, key=lambda name: re.sub(r"\d+$", "", name)):
        names = list(group)
        numbered = prefix != names[0] and len(names) > 2
        parts += [f"{names[0]} to {names[-1]}"] if numbered else names
    return ", ".join(parts)


def _shorten_key(key: str) -> str:
    """`body.6` of `body.6.rdb1.conv1.weight`, else the module: `conv_up2` of `conv_up2.bias`."""
    block = re.match(r"\w+\.\d+(?=\.)", key)
    return block[0] if block else key.rpartition(".")[0] or key


def _shared_names(spec: ArchSpec, keys: Iterable[str]) -> dict[str, str]:
    """The name by which each tensor is compared: its key, unless the number in it depends on the count of blocks."""
    moved = get_architecture(spec.architecture).moving_names(complete_spec(spec))
    return {key: _rename(key, moved) for key in keys}


def _rename(key: str, moved: Mapping[str, str]) -> str:
    module, dot, name = key.rpartition(".")
    return moved.get(module, module) + dot + name


def _adapt(tensor: Tensor, shape: tuple[int, ...], given: ArchSpec, wanted: ArchSpec) -> Tensor | None:
    """A tensor of an input or output convolution in the shape that is wanted; None: it is neither."""
    before, after = given.channels, wanted.channels
    if tensor.ndim == 4 and len(shape) == 4 and (tensor.shape[0], *tensor.shape[2:]) == (shape[0], *shape[2:]):
        cells = _count_cells(tensor.shape[1], before), _count_cells(shape[1], after)
        return _adapt_input(tensor, shape, before, after, cells) if all(cells) else None
    if before == after or tuple(tensor.shape[1:]) != shape[1:] or tensor.shape[0] * after != shape[0] * before:
        return None
    by_channel: Tensor = tensor.reshape(before, -1, *tensor.shape[1:])
    mean: Tensor = by_channel.mean(0, keepdim=True)
    return mean.expand(after, *mean.shape[1:]).reshape(shape).contiguous()


def _adapt_input(tensor: Tensor, shape: tuple[int, ...], before: int, after: int, cells: tuple[int, int]) -> Tensor:
    by_cell: Tensor = tensor.reshape(tensor.shape[0], before, cells[0], *tensor.shape[2:])
    if before != after:
        by_cell = by_cell.sum(1, keepdim=True).expand(-1, after, -1, -1, -1) / after
    if cells[0] != cells[1]:
        by_cell = by_cell.sum(2, keepdim=True).expand(-1, -1, cells[1], -1, -1) / cells[1]
    return by_cell.reshape(shape).contiguous()


def _count_cells(inputs: int, channels: int) -> int:
    """Pixels of a cell of the pixel-unshuffle that makes `inputs` of `channels`; 0: there is none."""
    cells = inputs // channels
    return cells if cells * channels == inputs and math.isqrt(cells) ** 2 == cells else 0
