"""The worst places, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sr_deploy.page.html import escape
from sr_deploy.page.slider import View, show_slider
from sr_deploy.verification.page.measured import describe_place
from sr_deploy.verification.worst import Crop

_FULL = 255
_MAX_CROPS = 12
_SIDE = 320
"""Longest side of a crop on the page, in CSS pixels."""


def show_crops(crops: Sequence[Crop], *, ran: bool) -> str:
    """The worst crops that show something, and in words those that do not.

    Args:
        crops: of this verification.
        ran: whether there was one; where `build` writes the page there was none.
    """
    if not ran:
        return "<h2>Worst places</h2><p>The next <code>sr-deploy verify</code> shows them.</p>"
    seen = [crop for crop in sorted(crops, key=lambda crop: -crop.max_abs) if shows_difference(crop)]
    hidden: dict[str, float] = {}
    for crop in crops:
        if not shows_difference(crop):
            hidden[crop.backend] = max(crop.max_abs, hidden.get(crop.backend, 0.0))
    figures = "".join(_show_crop(number, crop) for number, crop in enumerate(seen[:_MAX_CROPS]))
    parts = ["<h2>Worst places</h2>"]
    if figures:
        parts.append(
            "<p>Drag the handle, or use the arrow keys: the reference is left of it, the artifact right of it.</p>"
            f'<div class="figures">{figures}</div>'
        )
    if hidden:
        listed = ", ".join(f"{escape(backend)} ({greatest:.1e})" for backend, greatest in hidden.items())
        parts.append(
            f"<p>There is nothing to see of {listed}: no sample of the worst places is off by one 8-bit step "
            f"({1 / _FULL:.1e}), so no crop is shown.</p>"
        )
    if not crops:
        parts.append("<p>No output differs from the reference's.</p>")
    return "".join(parts)


def shows_difference(crop: Crop) -> bool:
    """Whether the outputs of a crop are one 8-bit step apart somewhere, by their values and as pictures."""
    return crop.max_abs >= 1 / _FULL and bool((crop.reference != crop.candidate).any())


def _show_crop(number: int, crop: Crop) -> str:
    difference = np.abs(crop.candidate.astype(np.int16) - crop.reference)
    gain = max(1, _FULL // max(1, int(difference.max())))
    views = (
        View("artifact", "artifact", crop.candidate),
        View(f"difference in 8 bit, times {gain}", "difference", (difference * gain).astype(np.uint8)),
        View("input", "input", crop.lr),
    )
    height, width = crop.reference.shape[:2]
    drawn = max(1, round(_SIDE * width / max(height, width)))  # a strip stays within the square that others fill
    told = f"off by {crop.max_abs:.1e} in {escape(f'{crop.point}, {describe_place(crop.place)}')}"
    return show_slider(
        number,
        f"Reference against {crop.backend}",
        View("reference", "reference", crop.reference),
        views,
        width=drawn,
        caption=f"{escape(crop.backend)}, <code>{escape(crop.file)}</code>: {told}",
    )
