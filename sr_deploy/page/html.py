"""Small pieces of HTML and SVG. Every text that is put in is escaped here."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.decoded_image import DecodedImage, write_decoded
from sr_deploy.legible import make_legible

_BAR_WIDTH = 260
_ROW = 24
_LABEL = 190
# From red through yellow to green: cells that are near to their limit stand out.
_COLORS = ((214, 69, 65), (245, 200, 95), (122, 196, 132))


def make_page(title: str, sections: Iterable[str], script: str = "") -> str:
    """A whole page; empty sections are left out.

    Args:
        title: plain text.
        sections: HTML.
        script: JavaScript that runs at the end.
    """
    style = files("sr_deploy.page").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + (f"\n<script>{script}</script>" if script else "")
        + "\n</body></html>\n"
    )


def escape(value: object) -> str:
    """Text for HTML, quotes included, made legible line by line: names of files may hold what turns a page's text."""
    return html.escape("\n".join(make_legible(line) for line in str(value).split("\n")))


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), *, stacks: bool = False
) -> str:
    """A table of cells that are HTML already.

    Args:
        header: names of the columns; all empty: there is no header.
        rows: cells.
        numbers: columns that stand to the right.
        stacks: on a narrow screen the cells of a row stand below one another; else the table is scrolled.
    """

    def cell(tag: str, column: int, content: str) -> str:
        return f"<{tag}{' class=number' if column in numbers else ''}>{content}</{tag}>"

    head = "".join(cell("th", column, escape(name)) for column, name in enumerate(header))
    body = "".join(
        "<tr>" + "".join(cell("td", column, content) for column, content in enumerate(row)) + "</tr>" for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    kind = ' class="stacks"' if stacks else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{body}</tbody></table></div>'


def verdict(passed: bool) -> str:
    """`ok` or `FAILED`, in its color."""
    return f'<span class="{"good" if passed else "bad"}">{"ok" if passed else "FAILED"}</span>'


def encode_image(image: NDArray[np.uint8], jpeg_quality: int | None = None) -> str:
    """A picture as a `data:` address.

    Args:
        image: H x W x C, 8 bit, C = 1 or 3.
        jpeg_quality: 1 to 100; None: PNG, which loses nothing.
    """
    kind = "png" if jpeg_quality is None else "jpeg"
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:
        path = Path(folder, f"crop.{kind}")
        write_decoded(path, DecodedImage(image), jpeg_quality)
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def bars(rows: Sequence[tuple[str, float, str]], title: str, greatest: float = 0.0) -> str:
    """Horizontal bars from zero. Negative ones are red.

    Args:
        rows: name, length and what stands behind the bar.
        title: for who cannot see it.
        greatest: length that there is room for at least, where several plots have one scale.
    """
    greatest = max(greatest, *(abs(value) for _, value, _ in rows), 0.0) or 1.0
    height = _ROW * len(rows)
    parts = []
    for number, (name, value, note) in enumerate(rows):
        top = _ROW * number
        length = max(1.0, _BAR_WIDTH * abs(value) / greatest) if value else 0.0
        color = "var(--bar)" if value >= 0 else "var(--bad)"
        parts.append(
            f'<text x="{_LABEL - 8}" y="{top + 16}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LABEL}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" fill="{color}"/>'
            f'<text class="soft" x="{_LABEL + length + 6:.1f}" y="{top + 16}">{escape(note)}</text>'
        )
    return wrap_svg(title, _LABEL + _BAR_WIDTH + 150, height, "".join(parts))


def wrap_svg(title: str, width: int, height: int, content: str) -> str:
    """SVG that is scrolled where it is wider than the page.

    Args:
        title: for who cannot see it.
        width: in CSS pixels.
        height: in CSS pixels.
        content: elements of SVG.
    """
    return (
        f'<div class="scroll"><svg role="img" aria-label="{escape(title)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{content}</svg></div>'
    )


def color_of(share: float) -> str:
    """A background for 0 (at the limit or beyond) to 1 (far from it)."""
    place = min(1.0, max(0.0, share)) * (len(_COLORS) - 1)
    low = min(int(place), len(_COLORS) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(_COLORS[low], _COLORS[low + 1], strict=True))
    return "#" + "".join(f"{round(level):02x}" for level in mixed)
