"""Pictures to train on: at the depth of their files, in the channels of the network, nothing of what nobody sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError
from sr_deploy.imaging import pillow
from sr_deploy.imaging.codec import training_decoder
from sr_deploy.imaging.limits import require_image
from sr_deploy.imaging.opening import decode_upright, open_image, refuse_colors
from sr_deploy.imaging.transparency import bleed_color
from sr_deploy.measure.quality import LUMA_WEIGHTS

Samples = NDArray[np.unsignedinteger[Any]]
"""Of 8 or 16 bit; the type's highest number is white."""

ALPHA_NOTE = "transparency is left out; what is fully transparent takes the colors around it"
GRAY_NOTE = "the network is for gray pictures: of colors only the luma (BT.601) is kept"
DARK_NOTE = (
    "no sample of its 16 bits is above a sixteenth of white: it is trained as dark as that, as upscale sees it; where "
    "samples have 12 bits or fewer, multiply them first, up to 65535"
)
_DARK = 4096


@dataclass(frozen=True)
class Original:
    """A decoded picture."""

    pixels: Samples
    """H x W x C, C = 1 (gray) or 3 (RGB)."""
    notes: tuple[str, ...]
    """What whoever trains on it should know: what was left out, and why it may look wrong."""


@dataclass(frozen=True)
class OriginalPair:
    """A picture at both resolutions, each at the depth of its file."""

    lr: Samples
    """H x W x C; 0 x 0 x C where low resolution is made elsewhere, or of each patch."""
    hr: Samples
    """(H * scale) x (W * scale) x C."""

    @property
    def nbytes(self) -> int:
        """Memory of both."""
        return self.lr.nbytes + self.hr.nbytes


def read_original(path: Path, channels: int) -> Original:
    """Decode a picture for a network of 1 (gray) or 3 (RGB) channels: gray is repeated, color becomes luma.

    pyvips decodes if it is installed, else Pillow does, as for `read_training_image`.

    Raises:
        ImageError: no such file, a folder, damaged or cut short, CMYK, animated, floating point, fully transparent; or
            colors of 16 bit, and no pyvips.
    """
    samples = _read_samples(path)
    notes = []
    pixels = samples
    if samples.shape[2] in (2, 4):
        pixels, alpha = samples[..., :-1], samples[..., -1]
        if not alpha.any():
            raise ImageError(f"{path} is fully transparent; nothing of it can be seen: leave it out")
        if not (alpha == np.iinfo(alpha.dtype).max).all():
            pixels = bleed_color(pixels, alpha)
            notes.append(ALPHA_NOTE)
    if pixels.dtype == np.uint16 and 0 < int(pixels.max()) < _DARK:
        notes.append(DARK_NOTE)
    if pixels.shape[2] > channels:
        pixels = np.rint(pixels @ np.array(LUMA_WEIGHTS))[..., None].astype(pixels.dtype)
        notes.append(GRAY_NOTE)
    elif pixels.shape[2] < channels:
        pixels = np.repeat(pixels, channels, axis=2)
    return Original(np.ascontiguousarray(pixels), tuple(notes))


def raise_depth(images: Sequence[Samples]) -> Sequence[Samples]:
    """Pictures of one depth: where one has 16 bits, those of 8 get them too (255 becomes 65535)."""
    if len({image.dtype for image in images}) == 1:
        return images
    return [image if image.dtype == np.uint16 else image.astype(np.uint16) * np.uint16(257) for image in images]


def _read_samples(path: Path) -> Samples:
    """H x W x bands, of 8 or 16 bit, with alpha."""
    if training_decoder() == "pillow":
        return pillow.read_samples(require_image(path))
    image, form = open_image(path)
    refuse_colors(path, image)
    return decode_upright(path, image, form)
