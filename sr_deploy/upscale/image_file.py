"""One picture file: read it, enlarge it with all that belongs to it, write it."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sr_deploy.errors import ImageError, InputError, ShapeError
from sr_deploy.files import KeptFolder, output_error
from sr_deploy.imaging.decoded_image import DecodedImage, decode_image, write_decoded
from sr_deploy.imaging.formats import find_format, find_losses, require_output_size, require_quality
from sr_deploy.imaging.header import Header
from sr_deploy.imaging.limits import MAX_PIXELS, require_image
from sr_deploy.imaging.opening import Pixels
from sr_deploy.imaging.resample import resample
from sr_deploy.imaging.transparency import bleed_color
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.result import UpscaleReport

AlphaMethod = Literal["network", "bicubic"]
"""How transparency is enlarged."""
_MAX_SCALE = 100_000
_OUTPUT_PER_INPUT = 16
"""Most output pixels for each of the `max_pixels` that may be read: a scale of 4."""


@dataclass(frozen=True)
class FileSettings:
    """How files are upscaled, beyond the network."""

    scale: float | None = None
    """Output pixels per input pixel along each side; None: the network's. Others are reached by resampling."""
    alpha: AlphaMethod = "network"
    """How transparency is enlarged: as a gray picture by the network, or by bicubic interpolation."""
    quality: int | None = None
    """1 to 100 for formats with loss; None: that of the format."""
    max_pixels: int = MAX_PIXELS
    """Largest picture that is read; 16 times as many may be written."""


@dataclass(frozen=True)
class Enlarged:
    """A picture after the network."""

    picture: DecodedImage
    """The result, with the source's profile, EXIF and resolution."""
    reports: tuple[UpscaleReport, ...]
    """What the network did: for the colors, then for transparency if it went through it."""
    seconds: float
    """Time that all of it took, without decoding and encoding."""


@dataclass(frozen=True)
class UpscaledFile:
    """What `upscale_file` did."""

    source: Path
    target: Path
    width: int
    """Of the source, upright, in pixels."""
    height: int
    """Of the source, upright, in pixels."""
    target_width: int
    """Of the result, in pixels."""
    target_height: int
    """Of the result, in pixels."""
    reports: tuple[UpscaleReport, ...]
    """What the network did: for the colors, then for transparency if it went through it."""
    losses: tuple[str, ...]
    """What the target's format could not hold, in words."""
    seconds: float
    """Time without decoding and encoding; with both of them, where they go on beside the network (`stream_file`)."""

    @property
    def recomputed(self) -> int:
        """Tiles that were recomputed in FP32."""
        return sum(report.recomputed for report in self.reports)


def upscale_file(
    upscaler: Upscaler,
    source: Path,
    target: Path,
    settings: FileSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> UpscaledFile:
    """Read, upscale and write one picture; the format of the result goes by the suffix of `target`.

    Raises:
        ImageError: the source cannot be read or is of a kind not taken, or the target cannot hold the result.
        InputError: both are the same file, or the settings cannot be met.
        OutputError: the target cannot be written.
        GuardError: what the network gives is not a picture of the input; nothing is written then.
        BackendError: the backend failed, or there is no memory for small tiles either.
    """
    settings = settings or FileSettings()
    check_paths(source, target)
    check_settings(target, settings)
    picture = decode_image(source, max_pixels=settings.max_pixels)
    check_image(picture.header, upscaler, source, target, settings)
    enlarged = enlarge_image(upscaler, picture, settings, on_progress=on_progress)
    return write_enlarged(source, target, picture, enlarged, settings)


def enlarge_image(
    upscaler: Upscaler, picture: DecodedImage, settings: FileSettings, *, on_progress: OnProgress | None = None
) -> Enlarged:
    """Colors and transparency of a picture, to the size that the settings ask for.

    Raises:
        ShapeError: the network does not take such a picture.
        GuardError: what the network gives is not a picture of the input.
        BackendError: the backend failed, or there is no memory for small tiles either.
    """
    started = time.perf_counter()
    width, height = find_target_size(picture.width, picture.height, settings.scale or upscaler.spec.scale)
    alpha = picture.alpha
    # Of what is the same everywhere, as opaque pictures with an alpha channel are, the network could only make noise.
    alpha_flat = alpha is not None and bool((alpha == alpha.flat[0]).all())
    alpha_by_network = alpha is not None and settings.alpha == "network" and not alpha_flat
    share = 0.5 if alpha_by_network else 1.0

    pixels = picture.pixels if alpha is None else bleed_color(picture.pixels, alpha)
    upscaled = upscaler.upscale(pixels, on_progress=tell_share(on_progress, 0.0, share))
    reports = [upscaled.report]
    colors = resample(upscaled.image, width, height, "lanczos")
    enlarged_alpha: Pixels | None = None
    if alpha is not None and alpha_by_network:
        second = upscaler.upscale(alpha[..., None], on_progress=tell_share(on_progress, 0.5, 1.0))
        reports.append(second.report)
        enlarged_alpha = resample(second.image, width, height, "lanczos")[..., 0]
    elif alpha is not None:
        enlarged_alpha = resample(alpha[..., None], width, height, "bicubic")[..., 0]
    if colors.shape[:2] != (height, width):
        raise ShapeError(f"internal: the result is {colors.shape[1]}x{colors.shape[0]}, not {width}x{height}")
    result = replace(picture, pixels=colors, alpha=enlarged_alpha)
    return Enlarged(result, tuple(reports), time.perf_counter() - started)


def tell_share(on_progress: OnProgress | None, first: float, last: float) -> OnProgress:
    """For one of the pictures that a file is enlarged as: from `first` to `last` of the file, which are 0 to 1."""

    def tell(tiles: Progress) -> None:
        if on_progress is not None and tiles.total:
            on_progress(Progress(tiles.stage, first + (last - first) * tiles.done / tiles.total, 1, "pictures"))

    return tell


def write_enlarged(
    source: Path,
    target: Path,
    picture: DecodedImage,
    enlarged: Enlarged,
    settings: FileSettings,
    *,
    within: KeptFolder | None = None,
) -> UpscaledFile:
    """Write what `enlarge_image` gave; `within`: the folder of all results, which has to be there still.

    Raises:
        ImageError: the target's format cannot hold it.
        OutputError: it cannot be written.
    """
    result = enlarged.picture
    losses = write_decoded(target, result, settings.quality, within=within)
    return UpscaledFile(
        source=source,
        target=target,
        width=picture.width,
        height=picture.height,
        target_width=result.width,
        target_height=result.height,
        reports=enlarged.reports,
        losses=losses,
        seconds=enlarged.seconds,
    )


def find_target_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Width and height of the result: each side times the scale, rounded, at least 1."""
    return max(1, round(width * scale)), max(1, round(height * scale))


def check_paths(source: Path, target: Path) -> None:
    """Refuse, before a network is loaded, what cannot end well.

    Raises:
        ImageError: there is no such source, or the target's suffix is unknown.
        InputError: both are the same file.
        OutputError: the target is a folder, or its folder cannot be written.
    """
    require_image(source)
    find_format(target)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the picture to read; give another name for the result")
    if target.is_dir():
        raise output_error(target, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
    require_writable_place(target)


def require_writable_place(target: Path) -> None:
    """Check that `target` can be made where it is to be.

    Raises:
        OutputError: a file stands where a folder is needed, or nothing may be written there.
    """
    ancestor = next(folder for folder in target.absolute().parents if folder.exists())
    if not ancestor.is_dir():
        raise output_error(target, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise output_error(target, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def check_settings(target: Path, settings: FileSettings) -> None:
    """Refuse settings that no picture can meet, before anything is read.

    Raises:
        InputError: a scale that is not above 0, a limit below 1, or a quality that means nothing for the target.
    """
    if settings.scale is not None:
        require_scale(settings.scale)
    if settings.max_pixels < 1:
        raise InputError(f"the largest picture to read has at least one pixel, not {settings.max_pixels}")
    require_quality(target, settings.quality)


def require_scale(scale: float) -> None:
    """Refuse a scale that no result can have.

    Raises:
        InputError: not above 0, above 100000, or NaN.
    """
    if not 0 < scale <= _MAX_SCALE:
        raise InputError(f"a scale is a number above 0, as in 2 or 1.5, not {scale}; at most {_MAX_SCALE} is taken")


def check_image(header: Header, upscaler: Upscaler, source: Path, target: Path, settings: FileSettings) -> None:
    """Refuse, before the network runs, what the network or the target's format does not take.

    Raises:
        ImageError: colors for a gray network, a result too large, or transparency that the format does not hold.
    """
    if header.channels > upscaler.spec.channels:
        raise ImageError(f"{source} is an RGB picture, but the network takes gray ones; convert it to gray first")
    width, height = find_target_size(header.width, header.height, settings.scale or upscaler.spec.scale)
    max_output = settings.max_pixels * _OUTPUT_PER_INPUT
    if width * height > max_output:
        raise ImageError(
            f"{source} would become {width}x{height}, {width * height / 1e6:.0f} megapixels; at most "
            f"{max_output / 1e6:g} are written: take a smaller --scale, or allow more with --max-megapixels "
            "(max_pixels in Python; 16 times as many may be written)"
        )
    require_output_size(target, width, height)
    find_losses(header, target)
