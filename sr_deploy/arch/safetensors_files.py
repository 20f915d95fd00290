"""Safetensors files: their header is checked here, before anything is allocated for what it says.

Layout: 8 bytes with the header's length, the header (JSON), and the numbers, tensor after tensor without holes.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from sr_deploy.arch.stored import MAX_AXES, MAX_TENSORS, Storage, StoredTensor, is_count, make_stored_tensor
from sr_deploy.errors import CheckpointError
from sr_deploy.legible import show_value
from sr_deploy.untrusted import parse_json

MAX_HEADER_BYTES = 1 << 23
"""Longest header that is read; that of a network with a thousand tensors has a hundredth of it."""
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
_METADATA = "__metadata__"


def read_safetensors(stream: BinaryIO) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by key, and its metadata.

    Args:
        stream: the file, open for reading; it stays open.

    Raises:
        CheckpointError: damaged, or its header contradicts itself or the file's size (no file name in it).
        OSError: it cannot be read.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise _damaged(f"its header would have {length} bytes, and the file has {size}")
    content = stream.read(length)
    count = content.count(b'"data_offsets"')
    if count > MAX_TENSORS:
        raise CheckpointError(f"refused: {count} tensors; a network has at most {MAX_TENSORS}")
    header = _parse_header(content)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged("its metadata are no texts by name")
    tensors, at = {}, 0
    for key, begin, end, entry in sorted(map(_read_place, header.items()), key=lambda found: found[1:3]):
        if begin != at:
            raise _damaged(f"tensor {show_value(key)} begins at byte {begin} of the numbers, not at {at}")
        tensors[key] = _describe_tensor(key, entry, 8 + length + begin, end - begin)
        at = end
    if 8 + length + at != size:
        raise _damaged(f"its tensors end at byte {8 + length + at}, and the file has {size}")
    return {key: tensors[key] for key in header}, metadata


def _parse_header(content: bytes) -> dict[str, object]:
    try:
        header = parse_json(content, any_text=True)
    except ValueError as error:
        raise _damaged(f"its header: {error}") from error
    if not isinstance(header, dict):
        raise _damaged("its header is not a JSON object")
    return header


def _read_place(item: tuple[str, object]) -> tuple[str, int, int, dict[str, object]]:
    key, entry = item
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(offset) for offset in offsets):
        raise _damaged(f"tensor {show_value(key)} does not say where it lies")
    assert isinstance(entry, dict)
    return key, offsets[0], offsets[1], entry


def _describe_tensor(key: str, entry: dict[str, object], at: int, size: int) -> StoredTensor:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(
            f"tensor {show_value(key)} has numbers of type {show_value(dtype)}; {', '.join(_DTYPES)} are read"
        )
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(is_count(side) for side in shape):
        raise _damaged(f"tensor {show_value(key)} has {show_value(shape)} for a shape")
    strides, count = [], 1
    for side in reversed(shape):
        strides.append(count)
        count *= side
    storage = Storage(_DTYPES[dtype], count, at)
    if storage.size != size:
        raise _damaged(f"tensor {show_value(key)} of shape {shape} takes {storage.size} bytes, and {size} are its own")
    return make_stored_tensor(storage, storage.dtype, tuple(shape), tuple(reversed(strides)), 0)


def _damaged(reason: str) -> CheckpointError:
    return CheckpointError(f"damaged or truncated safetensors file ({reason}); copy or download it again")
