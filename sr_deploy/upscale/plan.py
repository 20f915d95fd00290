"""How a picture is cut into tiles. Lengths are low-resolution pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Halo:
    """What tiles overlap by."""

    width: int
    """Pixels on each side."""
    blend: int
    """Pixels on either side of a seam over which neighbors are blended."""


@dataclass(frozen=True)
class Cut:
    """What decides on the tiles of pictures of one size."""

    tile: int
    """Core of a tile where a picture is cut at all."""
    halo: int
    """Overlap on each side."""
    batch: int = 1
    """Windows that go through the network at once."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis."""

    start: int
    """First pixel of the window."""
    keep_from: int
    """First pixel of the window's result that is kept, in picture coordinates."""
    keep_to: int
    """One past the last."""


@dataclass(frozen=True)
class Place:
    """Where one tile lies along one axis, and what of its result is used."""

    index: int
    """Number of the tile, from 0."""
    start: int
    """First pixel of the window."""
    used_from: int
    """First pixel of its result that is used, in picture coordinates."""
    used_to: int
    """One past the last; where tiles are blended it overlaps the next tile's."""
    first: bool
    """Whether no tile is before it."""
    last: bool
    """Whether no tile is after it."""

    def used(self, scale: int) -> slice:
        """What is used of the window's result, in pixels of that result."""
        return slice((self.used_from - self.start) * scale, (self.used_to - self.start) * scale)


@dataclass(frozen=True)
class Tile:
    """One tile."""

    row: Place
    """From top to bottom."""
    column: Place
    """From left to right."""

    def used(self, scale: int) -> tuple[slice, slice]:
        """What is used of the window's result, rows and columns."""
        return self.row.used(scale), self.column.used(scale)


@dataclass(frozen=True)
class TilePlan:
    """How a picture is cut."""

    height: int
    """Of the image, in low-resolution pixels."""
    width: int
    """Of the image, in low-resolution pixels."""
    padded_height: int
    """With what is added at the bottom, so that windows fit."""
    padded_width: int
    """With what is added at the right."""
    window_height: int
    """Of every window: what the network gets."""
    window_width: int
    """Of every window, in low-resolution pixels."""
    halo: int
    """Pixels on each inner side of a window that belong to its neighbor; 0 for a whole picture."""
    rows: tuple[Span, ...]
    """Windows from top to bottom."""
    columns: tuple[Span, ...]
    """Windows from left to right."""
    blend: int = 0
    """Neighbors are mixed over this many pixels on either side of a seam; 0: each ends where the next begins."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)

    def tiles(self) -> Iterator[Tile]:
        """From top to bottom, and from left to right in each row."""
        rows = [self._place(span, self.height, index, len(self.rows)) for index, span in enumerate(self.rows)]
        columns = [self._place(span, self.width, index, len(self.columns)) for index, span in enumerate(self.columns)]
        return (Tile(row, column) for row in rows for column in columns)

    def _place(self, span: Span, side: int, index: int, count: int) -> Place:
        first, last = index == 0, index == count - 1
        return Place(
            index=index,
            start=span.start,
            used_from=span.keep_from - (0 if first else self.blend),
            used_to=min(span.keep_to, side) + (0 if last else self.blend),
            first=first,
            last=last,
        )


@dataclass(frozen=True)
class InferencePlan:
    """How an image goes through a network."""

    tiles: TilePlan
    """How it is cut."""
    halo: Halo
    """Of windows that are cut further since memory runs out; that of `tiles` may be narrower, as a profile has it."""
    batch: int
    """Windows that go through the network at once."""
