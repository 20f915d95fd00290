"""What `torch.save` writes, read without torch's unpickler: archives, and the format from before torch 1.6.

`read_torch_file` gives descriptions of tensors, of which `stored.load_tensors` reads the numbers that are wanted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from sr_deploy.arch.archives import list_members, read_member
from sr_deploy.arch.pickles import MAX_PICKLE_BYTES, Opaque, PickleReader
from sr_deploy.arch.stored import Storage, StoredTensor, load_tensors, require_sizes
from sr_deploy.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_PICKLE = "data.pkl"
_BYTE_ORDER = "byteorder"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_AGAIN = "copy or download it again"


def read_torch_file(stream: BinaryIO) -> object:
    """The document of a file of `torch.save`, with a `StoredTensor` in the place of each tensor.

    Args:
        stream: the file, open for reading; it stays open.

    Raises:
        CheckpointError: it asks for code, is damaged, or larger than it says (no file name in it).
        OSError: it cannot be read.
    """
    stream.seek(0)
    return _read_archive(stream) if stream.read(2) == b"PK" else _read_legacy(stream)


def load_torch_file(stream: BinaryIO) -> object:
    """The document of a file of `torch.save` with its tensors, as they are stored, on the CPU.

    Raises:
        CheckpointError: as `read_torch_file`; or it holds something else than tensors and plain containers and values.
        OSError: it cannot be read.
        MemoryError: the tensors do not fit.
    """
    document = read_torch_file(stream)
    stored: dict[str, StoredTensor] = {}
    _collect(document, stored)
    require_sizes(stored.values())
    return _put_in(document, load_tensors(stream, stored))


def _collect(part: object, found: dict[str, StoredTensor]) -> None:
    if isinstance(part, StoredTensor):
        found[str(id(part))] = part
    elif isinstance(part, Opaque):
        raise CheckpointError(f"holds {part.what}; only plain tensors, containers and values are read")
    elif isinstance(part, dict | list | tuple):
        for inner in part.values() if isinstance(part, dict) else part:
            _collect(inner, found)


def _put_in(part: object, tensors: dict[str, Tensor]) -> object:
    if isinstance(part, StoredTensor):
        return tensors[str(id(part))]
    if isinstance(part, dict):
        return {key: _put_in(inner, tensors) for key, inner in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(_put_in(inner, tensors) for inner in part)
    return part


def _read_archive(stream: BinaryIO) -> object:
    members = list_members(stream)
    pickles = [name for name in members if name.rpartition("/")[2] == _PICKLE]
    folder = pickles[0].removesuffix(_PICKLE) if len(pickles) == 1 else ""
    if any(name.startswith((f"{folder}code/", f"{folder}constants.pkl")) for name in members):
        raise CheckpointError(
            "a TorchScript archive, which holds code; save the network's state_dict() with torch.save and give that"
        )
    if len(pickles) != 1:
        raise CheckpointError(f"an archive with {len(pickles)} files {_PICKLE}, where torch.save writes one; {_AGAIN}")
    if members[pickles[0]].size > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"refused: its pickle has {members[pickles[0]].size} bytes, and {MAX_PICKLE_BYTES} are taken; save the "
            "network's state_dict() alone and give that"
        )
    order = members.get(folder + _BYTE_ORDER)
    if order is not None and read_member(stream, order) != b"little":
        raise CheckpointError("its numbers are big-endian; save it anew on a machine of the usual byte order")
    reader = PickleReader(bytes(read_member(stream, members[pickles[0]])))
    document = reader.read()
    for key, storage in reader.storages.items():
        member = members.get(f"{folder}data/{key}")
        if member is None or member.size < storage.size:
            raise CheckpointError(
                f"damaged or truncated: its pickle speaks of {storage.size} bytes in data/{key[:80]}, and the archive "
                f"has {'no such file' if member is None else member.size}; {_AGAIN}"
            )
        storage.place = member
    return document


def _read_legacy(stream: BinaryIO) -> object:
    """Five pickles (a number, the version, sizes of types, the document, keys) and the numbers, key by key."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    reader = PickleReader(stream.read(MAX_PICKLE_BYTES))
    head = reader.read(), reader.read(), reader.read()
    if head[:2] != (_MAGIC, _PROTOCOL) or not isinstance(head[2], dict) or head[2].get("little_endian") is not True:
        raise CheckpointError(
            "damaged, or no file of torch.save (a pickle that does not begin as torch's do); only tensors and plain "
            "containers are loaded"
        )
    document, keys = reader.read(), reader.read()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in reader.storages for key in keys):
        raise CheckpointError(f"damaged or truncated (the list of its storages does not fit its tensors); {_AGAIN}")
    at = reader.at
    for key in keys:
        at = _place(stream, at, size, reader.storages[key])
    if any(storage.place is None for storage in reader.storages.values()):
        raise CheckpointError(f"damaged or truncated (a storage of its tensors is missing); {_AGAIN}")
    return document


def _place(stream: BinaryIO, at: int, size: int, storage: Storage) -> int:
    """Note where a storage of the old format lies; returns where the next begins."""
    stream.seek(at)
    count, at = int.from_bytes(stream.read(8), "little"), at + 8
    if count != storage.count or at + storage.size > size:
        raise CheckpointError(
            f"damaged or truncated (a storage of {storage.count} numbers is not where it should be); {_AGAIN}"
        )
    storage.place = at
    return at + storage.size
