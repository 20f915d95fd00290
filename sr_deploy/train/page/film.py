"""The previews of a run as a film strip, and one of them large."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from sr_deploy.imaging.decoded_image import decode_image
from sr_deploy.imaging.encoding import round_to_8bit
from sr_deploy.page.html import encode_image, escape
from sr_deploy.run_folder import list_previews
from sr_deploy.train.page.content import RunContent
from sr_deploy.untrusted import find_inside

MAX_FRAMES = 16
"""Of a page."""
_QUALITY = 70
_MAX_PIXELS = 4_000_000
"""No preview that `write_preview` makes has as many."""
_COLUMNS, _GAP = 4, 8
"""Of a preview: low resolution, bicubic, the network, the original, and the pixels between them."""


def show_film(content: RunContent) -> str:
    """The section of the previews: `MAX_FRAMES` at most, evenly drawn from the first to the last."""
    found = list_previews(content.run)
    if not found:
        content.missing.append("previews: the run has none; run.preview_every says how often one is written")
        return ""
    last = len(found) - 1
    drawn = sorted({round(last * place / (MAX_FRAMES - 1)) for place in range(MAX_FRAMES)}) if last else [0]
    frames = []
    for step, name in (found[index] for index in drawn):
        frame = content.attempt(f"the preview of step {step}", _read_frame(content, step, name))
        if frame is not None:
            frames.append((step, *frame))
    if not frames:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="{str(place == len(frames)).lower()}" data-caption="{escape(caption)}">'
        f'<span class="crop"><img alt="" src="{address}" style="{style}"></span>{step}</button>'
        for place, (step, address, style, caption) in enumerate(frames, 1)
    )
    few = f"{len(frames)} of {len(found)} previews" + (", evenly drawn" if len(found) > MAX_FRAMES else "")
    _, address, _, caption = frames[-1]
    return (
        f"<h2>Previews by step</h2><p>{few}, as JPEG. Choose one, or use the arrow keys: it is shown below, from left "
        "to right low resolution, bicubic, the network and the original.</p>"
        f'<div class="film"><div class="strip" role="group" aria-label="Previews by step">{buttons}</div>'
        f'<figure class="frame"><div class="scroll"><img alt="{escape(caption)}" src="{address}"></div>'
        f'<figcaption aria-live="polite">{escape(caption)}</figcaption></figure></div>'
    )


def read_script() -> str:
    """The JavaScript that shows a frame large."""
    return files("sr_deploy.train.page").joinpath("film.js").read_text(encoding="utf-8")


def _read_frame(content: RunContent, step: int, name: str) -> Callable[[], tuple[str, str, str]]:
    def read() -> tuple[str, str, str]:
        """Address of the picture, the style that shows the network's first crop of it, and a caption."""
        pixels = round_to_8bit(decode_image(find_inside(content.run, name), max_pixels=_MAX_PIXELS).pixels)
        width = pixels.shape[1]
        column = (width - (_COLUMNS - 1) * _GAP) / _COLUMNS
        style = f"width: {100 * width / column:.2f}%; margin-left: {-200 * (column + _GAP) / column:.2f}%"
        scored = [one.model.psnr_y for one in content.validations if one.step == step]
        caption = f"step {step}" + (f", {scored[0]:.2f} dB Y-PSNR on average" if scored else "")
        return encode_image(pixels, _QUALITY), style if column >= 1 else "width: 100%", caption

    return read
