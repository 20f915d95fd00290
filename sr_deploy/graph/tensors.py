"""What a stored tensor says it holds, against what it holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sr_deploy.legible import show_value

if TYPE_CHECKING:
    from onnx import TensorProto

BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16}
"""Of an element, by ONNX's element type: of those that tensors of networks for images have."""
FP8_TYPES = (17, 18, 19, 20, 24)
BITS |= dict.fromkeys(FP8_TYPES, 8) | {21: 4, 22: 4, 23: 4}  # integers and floats of 4 bit

_MAX_RANK = 32
_MAX_DIGITS = 19
_FIELD_OF_TYPE = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
_OTHERS = "int32_data"
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
# Small integers that lie in fields of 32 bits, and FP16 numbers as patterns of 16.
_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 9: (0, 1), 10: (0, 65535), 16: (0, 65535)}


class Outside(NamedTuple):
    """Where the data of a tensor lie that are in another file."""

    location: str
    """Name of the file, relative to that of the graph; not looked at yet."""
    start: int
    """Offset of the first byte in the file."""
    end: int
    """One past the last."""


def check_tensor(tensor: TensorProto) -> None:
    """Refuse a tensor whose sizes, type and data do not belong together.

    Raises:
        ValueError: the message says what is wrong, and names the tensor.
    """
    name = show_value(tensor.name)
    if tensor.data_type not in BITS:
        raise ValueError(f"tensor {name} has the element type {tensor.data_type}, which no network for images has")
    if tensor.HasField("segment"):
        raise ValueError(f"tensor {name} is a segment of another")
    if len(tensor.dims) > _MAX_RANK or any(side < 0 for side in tensor.dims):
        raise ValueError(f"tensor {name} has the sides {show_dims(tensor.dims)}")
    if is_outside(tensor):
        find_outside(tensor)
        return
    count = count_elements(tensor)
    held = [field for field in _DATA_FIELDS if getattr(tensor, field)]
    typed = _FIELD_OF_TYPE.get(tensor.data_type, _OTHERS)
    if not held and not count:
        return
    if held == ["raw_data"]:
        seen, due, unit = len(tensor.raw_data), bytes_of(tensor), "bytes"
    elif held == [typed]:
        packs = 2 if BITS[tensor.data_type] == 4 else 1
        seen, due, unit = len(getattr(tensor, typed)), -(-count // packs), "numbers"
    else:
        raise ValueError(
            f"tensor {name} has its data in {' and '.join(held) or 'no field'}; {typed} or raw_data is due"
        )
    if seen != due:
        raise ValueError(f"tensor {name} of {show_dims(tensor.dims)} holds {seen} {unit}; {due} are due")
    if held == [_OTHERS] and not _fits(tensor):
        raise ValueError(f"tensor {name} holds numbers that its element type {tensor.data_type} has not")


def is_outside(tensor: TensorProto) -> bool:
    """Whether its data lie in another file."""
    return bool(tensor.data_location == tensor.EXTERNAL or tensor.external_data)


def find_outside(tensor: TensorProto) -> Outside:
    """Where the data of a tensor lie for which `is_outside` holds.

    Raises:
        ValueError: it does not say so, or says something that does not fit its sides.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = [entries.get("offset", "0") or "0", entries.get("length", "") or str(bytes_of(tensor))]
    if not entries.get("location") or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"tensor {show_value(tensor.name)} lies in another file and does not say where")
    start, length = (int(number) if len(number) < _MAX_DIGITS else -1 for number in numbers)
    if start < 0 or length != bytes_of(tensor):
        raise ValueError(
            f"tensor {show_value(tensor.name)} of {show_dims(tensor.dims)} takes {bytes_of(tensor)} bytes, not "
            f"{numbers[1][:_MAX_DIGITS]} from {numbers[0][:_MAX_DIGITS]} on in another file"
        )
    return Outside(entries["location"], start, start + length)


def count_elements(tensor: TensorProto) -> int:
    """Product of its sides."""
    return math.prod(tensor.dims)


def bytes_of(tensor: TensorProto) -> int:
    """Bytes that a tensor of this type and these sides takes."""
    return -(-count_elements(tensor) * BITS[tensor.data_type] // 8)


def show_dims(dims: object) -> str:
    """Sides of a tensor, for a message: `12 x 3 x 3`."""
    listed = [str(side) for side in dims]  # type: ignore[attr-defined]
    return " x ".join(listed[:8] + ["..."] * (len(listed) > 8)) or "no sides"


def _fits(tensor: TensorProto) -> bool:
    low, high = _RANGES.get(tensor.data_type, (-(2**31), 2**31 - 1) if tensor.data_type == 6 else (-128, 255))
    values = np.fromiter(tensor.int32_data, np.int64, len(tensor.int32_data))
    return not len(values) or bool(low <= values.min() and values.max() <= high)
