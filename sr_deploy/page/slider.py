"""Two pictures over one another, with a handle between them: before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from sr_deploy.page.html import encode_image, escape


@dataclass(frozen=True)
class View:
    """A picture that a slider shows."""

    name: str
    """Stands below its side of the slider."""
    label: str
    """Of the choice that shows it."""
    image: NDArray[np.uint8]
    """H x W x C, 8 bit."""


def show_slider(number: int, title: str, left: View, views: Sequence[View], *, width: int, caption: str) -> str:
    """A figure with a handle that uncovers one picture over another; the page needs `read_script`.

    Args:
        number: of the figure, another one for each on a page.
        title: for who cannot see it.
        left: shown left of the handle; the others are stretched to its size.
        views: what can be shown right of it; the first is at the start.
        width: in CSS pixels, on a screen that has as many.
        caption: HTML.
    """
    stored = "".join(
        f'<img class="store" data-view="v{place}" alt="" src="{encode_image(view.image)}">'
        for place, view in enumerate(views)
        if place
    )
    choices = "".join(
        f'<label><input type="radio" name="view{number}" value="v{place}" data-name="{escape(view.name)}"'
        f"{'' if place else ' checked'}> {escape(view.label)}</label>"
        for place, view in enumerate(views)
    )
    rows, columns = left.image.shape[:2]
    return (
        f'<figure><div class="slider" tabindex="0" role="slider" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="50" aria-label="{escape(title)}" style="width: {width}px; aspect-ratio: {columns}/{rows}">'
        f'<img class="right" alt="{escape(views[0].name)}" src="{encode_image(views[0].image)}">'
        f'<img class="left" alt="{escape(left.name)}" src="{encode_image(left.image)}">'
        f'<span class="handle"></span></div><div class="sides"><span>{escape(left.name)}</span>'
        f'<span class="right-name">{escape(views[0].name)}</span></div>'
        f'<div class="views" role="radiogroup" aria-label="Shown on the right">{choices}</div>{stored}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def read_script() -> str:
    """The JavaScript that moves the handles and exchanges the pictures."""
    return files("sr_deploy.page").joinpath("slider.js").read_text(encoding="utf-8")
