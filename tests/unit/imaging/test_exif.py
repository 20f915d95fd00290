from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.imaging.exif import read_dpi, set_upright


def build_exif(order: str, orientation: int, unit: int = 2, next_directory: int = 99) -> bytes:
    """A TIFF header, five tags (the first a text in place), two rationals behind."""
    entries = [
        struct.pack(order + "HHI4s", 0x010F, 2, 3, b"me\0\0"),
        struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0),
        struct.pack(order + "HHII", 0x011A, 5, 1, 8 + 2 + 60 + 4),
        struct.pack(order + "HHII", 0x011B, 5, 1, 8 + 2 + 60 + 12),
        struct.pack(order + "HHIHH", 0x0128, 3, 1, unit, 0),
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    directory = struct.pack(order + "H", 5) + b"".join(entries) + struct.pack(order + "I", next_directory)
    return head + directory + struct.pack(order + "IIII", 600, 2, 100, 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_and_thumbnail_alone_change(order: str, prefix: bytes, orientation: int) -> None:
    mended = set_upright(prefix + build_exif(order, orientation))
    assert mended == prefix + build_exif(order, 1, next_directory=0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_resolution_in_inches_centimeters_and_no_unit(order: str) -> None:
    assert read_dpi(build_exif(order, 1)) == (300.0, 100.0)
    assert read_dpi(build_exif(order, 1, unit=3)) == pytest.approx((762.0, 254.0))
    assert read_dpi(build_exif(order, 1, unit=1)) is None


@given(st.integers(0, 90), st.binary(max_size=40))
def test_damaged_exif_is_left_alone(length: int, tail: bytes) -> None:
    cut = build_exif("<", 6)[:length] + tail
    assert len(set_upright(cut)) == len(cut)
    read_dpi(cut)
    assert set_upright(tail) == tail or tail[:4] in (b"II*\0", b"MM\0*")
