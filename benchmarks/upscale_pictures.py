"""Make the pictures of docs/upscaling.md with the tool itself.

    python benchmarks/upscale_pictures.py --model realesr-animevideov3.pth

Left what bicubic interpolation gives, right the network, of a piece of a scikit-image photograph; then the edge of a
drawing with black under its transparency, upscaled as it lies in the file (left) and as `sr-deploy upscale` does it
(right), on white, twice as large.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.decoded_image import DecodedImage
from sr_deploy.imaging.resample import resample
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings, enlarge_image

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
_PIECES = (("chelsea", 70, 150),)
_SIDE = 80


def draw_badge() -> DecodedImage:
    """A disc with a bar, cut out hard as palettes have it; black under all that is transparent, as editors leave it."""
    large = Image.new("RGBA", (4 * _SIDE, 4 * _SIDE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(large)
    pen.ellipse((20, 20, 300, 300), fill=(255, 196, 40, 255))
    pen.rectangle((90, 140, 230, 180), fill=(250, 250, 250, 255))
    samples = np.asarray(large).astype(np.float64).reshape(_SIDE, 4, _SIDE, 4, 4)
    alpha = samples[..., 3].mean(axis=(1, 3))
    weight = np.maximum(samples[..., 3:].sum(axis=(1, 3)), 1e-9)
    color = (samples[..., :3] * samples[..., 3:]).sum(axis=(1, 3)) / weight
    seen = alpha > 127
    return DecodedImage(np.where(seen[..., None], np.rint(color), 0).astype(np.uint8), 255 * seen.astype(np.uint8))


def put_on_white(picture: DecodedImage) -> NDArray[np.uint8]:
    """What a viewer shows."""
    assert picture.alpha is not None
    share = picture.alpha[..., None] / 255
    return np.rint(picture.pixels * share + 255 * (1 - share)).astype(np.uint8)


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=PICTURES)
    arguments = parser.parse_args()
    settings = FileSettings()
    with Upscaler(arguments.model, backend=arguments.backend) as upscaler:
        side = _SIDE * upscaler.spec.scale
        for name, top, left in _PIECES:
            piece = np.ascontiguousarray(read_image(bundled_photographs()[name])[top:, left:][:_SIDE, :_SIDE])
            bicubic = resample(piece, side, side, "bicubic")
            network = enlarge_image(upscaler, DecodedImage(piece), settings).picture.pixels
            both = np.concatenate([bicubic, network], axis=1)
            write_image(arguments.out / f"upscale-{name}.png", np.ascontiguousarray(both, dtype=np.uint8))
        badge = draw_badge()
        assert badge.alpha is not None
        as_it_lies = DecodedImage(upscaler(badge.pixels), upscaler(badge.alpha[..., None])[..., 0])
        bled = enlarge_image(upscaler, badge, settings).picture
        edges = [put_on_white(picture)[: side // 2, : side // 2] for picture in (as_it_lies, bled)]
        both = np.repeat(np.repeat(np.concatenate(edges, axis=1), 2, axis=0), 2, axis=1)
        write_image(arguments.out / "upscale-transparency.png", both)


if __name__ == "__main__":
    main()
