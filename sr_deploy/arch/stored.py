"""Tensors as files describe them: type, shape and where the numbers lie. Nothing is allocated before it is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch

from sr_deploy.arch.archives import Member, read_member
from sr_deploy.errors import CheckpointError
from sr_deploy.legible import show_value

DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
}
"""Types of numbers that are read, by torch's names, with their bytes."""
MAX_AXES = 8
"""Most axes of a tensor; weights have five at most."""
MAX_TENSORS = 40_000
"""Most tensors of a file; a network of a thousand blocks has fewer."""


@dataclass
class Storage:
    """A run of numbers in a file, that one or more tensors lie in."""

    dtype: str
    """One of `DTYPES`."""
    count: int
    """How many numbers it has."""
    place: int | Member | None = None
    """Where its bytes begin in the file, or the member of the archive that they are; None: not found yet."""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * DTYPES[self.dtype]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: plain numbers, within their storage, none of them used twice."""

    storage: Storage
    dtype: str
    """One of `DTYPES`; that of the storage, unless that is bytes alone."""
    shape: tuple[int, ...]
    """At most `MAX_AXES` sides."""
    stride: tuple[int, ...]
    """Numbers from one element to the next, along each axis."""
    offset: int
    """Numbers of the storage before the first."""

    @property
    def size(self) -> int:
        """In bytes, as one piece."""
        return math.prod(self.shape) * DTYPES[self.dtype]


def make_stored_tensor(storage: Storage, dtype: str, shape: object, stride: object, offset: object) -> StoredTensor:
    """Check what a file says of a tensor.

    Raises:
        CheckpointError: no such type, no plain sides, or numbers outside the storage or used more than once.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"a tensor has numbers of type {show_value(dtype)}; {', '.join(DTYPES)} are read")
    for dims in (shape, stride):
        if not isinstance(dims, tuple) or len(dims) > MAX_AXES or not all(is_count(side) for side in dims):
            raise CheckpointError(f"a tensor has {show_value(dims)} for sides or strides; up to {MAX_AXES} integers")
    assert isinstance(shape, tuple)
    assert isinstance(stride, tuple)
    if len(shape) != len(stride) or not is_count(offset):
        raise CheckpointError(f"a tensor of shape {shape} has strides {stride} and begins at {show_value(offset)}")
    assert isinstance(offset, int)
    within, count = storage.size // DTYPES[dtype], math.prod(shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if count and (last >= within or count > within):
        raise CheckpointError(
            f"a tensor of shape {shape} with strides {stride} and {offset} numbers before it lies in a storage of "
            f"{within} numbers: the file holds less than it says; save the network's state_dict() anew"
        )
    return StoredTensor(storage, dtype, shape, stride, offset)


def load_tensors(stream: BinaryIO, tensors: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
    """Read tensors, each as it is stored, on the CPU. Tensors of one storage share memory.

    Args:
        stream: the file that they were found in.
        tensors: by any names.

    Raises:
        CheckpointError: the file has become shorter.
        OSError: it cannot be read.
    """
    buffers: dict[int, torch.Tensor] = {}
    loaded = {}
    for key, stored in tensors.items():
        name = id(stored.storage)
        if name not in buffers:
            buffers[name] = _read_bytes(stream, stored.storage)
        numbers = buffers[name].view(getattr(torch, stored.dtype))
        loaded[key] = numbers.as_strided(stored.shape, stored.stride, stored.offset)
    return loaded


def require_sizes(tensors: Iterable[StoredTensor]) -> None:
    """Refuse tensors that take more memory than the file has for them.

    Raises:
        CheckpointError: some lie on one another, as those that repeat one number do.
    """
    tensors = list(tensors)
    needed = sum(tensor.size for tensor in tensors)
    held = sum({id(tensor.storage): tensor.storage.size for tensor in tensors}.values())
    if needed > held:
        raise CheckpointError(
            f"its tensors take {needed} bytes and lie in {held}: some share their numbers; save a state_dict() whose "
            "tensors are contiguous and their own"
        )


def is_count(value: object) -> bool:
    """Whether a value of a file is an integer from 0 up that fits into 62 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _read_bytes(stream: BinaryIO, storage: Storage) -> torch.Tensor:
    if isinstance(storage.place, Member):
        content = read_member(stream, storage.place)
    else:
        assert storage.place is not None
        content = bytearray(storage.size)
        stream.seek(storage.place)
        if stream.readinto(content) != storage.size:  # type: ignore[attr-defined]
            raise CheckpointError("damaged or truncated (it ends too early); copy or download it again")
    # Bytes that are none make no buffer for torch.
    return torch.frombuffer(content, dtype=torch.uint8, count=storage.size) if storage.size else torch.empty(0).byte()
