"""One picture file, row by row: tiles are computed while it is read, and written while the next ones are computed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

import numpy as np

from sr_deploy.errors import InputError
from sr_deploy.files import KeptFolder, output_error
from sr_deploy.imaging.formats import find_losses
from sr_deploy.imaging.header import Header
from sr_deploy.imaging.opening import Pixels
from sr_deploy.imaging.row_reader import STRIP, RowReader
from sr_deploy.imaging.row_writer import RowWriter, open_row_writer, require_by_rows
from sr_deploy.imaging.transparency import ColorBleeder
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.upscale.canvas import OnRows
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import (
    FileSettings,
    UpscaledFile,
    check_image,
    check_paths,
    check_settings,
    tell_share,
)
from sr_deploy.upscale.result import UpscaleReport
from sr_deploy.upscale.rows import InputRows


def stream_file(
    upscaler: Upscaler,
    source: Path,
    target: Path,
    settings: FileSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> UpscaledFile:
    """As `upscale_file`, with no more than some rows of the picture and of its result in memory.

    The result is the same, bit for bit, where the halo is all that the network sees; else the halo is chosen on the
    picture's first rows instead of on all of it. A picture with transparency is read three times, and its colors wait
    for it in a file without a name beside the target.

    Raises:
        ImageError: as `upscale_file`; or the source cannot be read, or the target not be written, row by row.
        InputError: as `upscale_file`, or a scale that is not the network's, or transparency by bicubic interpolation.
        OutputError: the target cannot be written.
        GuardError: what the network gives is not a picture of the input; nothing is written then.
        BackendError: the backend failed, or there is no memory for small tiles either.
    """
    settings = settings or FileSettings()
    check_paths(source, target)
    check_settings(target, settings)
    require_by_rows(target)
    scale = upscaler.spec.scale
    if settings.scale not in (None, scale):
        raise InputError(
            f"--stream writes pictures of the network's own scale, {scale}, not {settings.scale:g}; leave --scale or "
            "--stream out"
        )
    with RowReader(source, max_pixels=settings.max_pixels) as reader:
        header = reader.header
    check_image(header, upscaler, source, target, settings)
    large = replace(header, width=header.width * scale, height=header.height * scale)
    transparency = _look_at(source, settings) if header.has_alpha else None
    with open_row_writer(target, large, settings.quality) as writer:
        kept = KeptFolder(target.parent)

        def show(progress: Progress) -> None:
            kept.require()  # the rows may go into a file that has no name any more
            if on_progress is not None:
                on_progress(progress)

        job = _Job(upscaler, source, header, settings, show)
        if isinstance(transparency, ColorBleeder):
            reports = job.run_with_alpha(writer, transparency, target)
        else:
            reports = job.run_colors(writer, transparency)
    return UpscaledFile(
        source=source,
        target=target,
        width=header.width,
        height=header.height,
        target_width=large.width,
        target_height=large.height,
        reports=reports,
        losses=find_losses(header, target),
        seconds=sum(report.seconds for report in reports),
    )


@dataclass(frozen=True)
class _Job:
    """One picture through the network, once or twice."""

    upscaler: Upscaler
    source: Path
    header: Header
    settings: FileSettings
    on_progress: OnProgress

    def run_colors(self, writer: RowWriter, alpha: int | None) -> tuple[UpscaleReport, ...]:
        """The colors, with a transparency that is the same everywhere if there is one."""

        def write(colors: Pixels) -> None:
            writer.write(colors if alpha is None else _join(colors, alpha))

        channels = self.header.channels
        with self._open() as reader:
            return (self._upscale((strip[..., :channels] for strip in reader.strips()), channels, write, (0.0, 1.0)),)

    def run_with_alpha(self, writer: RowWriter, bleeder: ColorBleeder, target: Path) -> tuple[UpscaleReport, ...]:
        """The colors into a file that has no name, then the transparency, which takes them from there."""
        channels = self.header.channels
        with _open_spool(target) as spool:

            def keep(colors: Pixels) -> None:
                spool.write(colors.data)

            def write(alpha: Pixels) -> None:
                height, width, _ = alpha.shape
                kept = np.frombuffer(spool.read(height * width * channels * alpha.itemsize), alpha.dtype)
                writer.write(_join(cast("Pixels", kept.reshape(height, width, channels)), alpha[..., 0]))

            with self._open() as reader:
                bled = (
                    bleeder.bleed(strip[..., :-1], strip[..., -1], number * STRIP)
                    for number, strip in enumerate(reader.strips())
                )
                colors = self._upscale(bled, channels, keep, (0.0, 0.5))
            spool.seek(0)
            with self._open() as reader:
                return colors, self._upscale((strip[..., -1:] for strip in reader.strips()), 1, write, (0.5, 1.0))

    def _open(self) -> RowReader:
        return RowReader(self.source, max_pixels=self.settings.max_pixels)

    def _upscale(
        self, strips: Iterator[Pixels], channels: int, on_rows: OnRows, shares: tuple[float, float]
    ) -> UpscaleReport:
        header = self.header
        dtype = np.dtype(np.uint8 if header.bits == 8 else np.uint16)
        rows = InputRows((header.height, header.width, channels), dtype, strips)
        return self.upscaler.upscale_rows(rows, on_rows, on_progress=tell_share(self.on_progress, *shares))


def _look_at(source: Path, settings: FileSettings) -> int | ColorBleeder:
    """What the transparency of a picture is everywhere, or else what continues its colors.

    Raises:
        ImageError: the source is damaged.
        InputError: it is not the same everywhere, and bicubic interpolation is asked for.
    """
    bleeder = ColorBleeder()
    low, high = np.iinfo(np.uint16).max, 0
    with RowReader(source, max_pixels=settings.max_pixels) as reader:
        for strip in reader.strips():
            alpha = strip[..., -1]
            low, high = min(low, int(alpha.min())), max(high, int(alpha.max()))
            bleeder.look(strip[..., :-1], alpha)
    if low == high:
        return low
    if settings.alpha == "bicubic":
        raise InputError(
            f"--stream does not interpolate transparency, and that of {source} is not the same everywhere; leave "
            "--alpha bicubic or --stream out"
        )
    return bleeder


def _join(colors: Pixels, alpha: Pixels | int) -> Pixels:
    """H x W x C with the transparency, H x W or the same everywhere, as one more channel."""
    joined = np.empty((*colors.shape[:2], colors.shape[2] + 1), colors.dtype)
    joined[..., :-1] = colors
    joined[..., -1] = alpha
    return cast("Pixels", joined)


@contextlib.contextmanager
def _open_spool(target: Path) -> Iterator[IO[bytes]]:
    """A file without a name on the disk of `target`: it is removed in any case.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=target.parent) as stream:
            yield stream
    except OSError as error:
        raise output_error(target, error) from error
