"""Squares cut out of photographs, which are quicker to decode than whole ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sr_deploy.files import replacing_folder
from sr_deploy.imaging.codec import list_images, read_training_image, write_image

REPORT_EVERY = 200
"""Images, from one line of progress to the next."""

Report = Callable[[str], None]
"""Told what happens, a line each."""


def count_images(folder: Path) -> int:
    """Images in a folder, searched recursively; 0 where it does not exist."""
    return len(list_images(folder)) if folder.is_dir() else 0


def cut_sub_images(images: Path, out: Path, *, size: int, step: int, workers: int, report: Report) -> int:
    """Cut each image into overlapping squares, a folder for each, which is seen whole or not at all.

    Args:
        images: folder of images, searched recursively.
        out: gets the same folders.
        size: side of a square in pixels; images that are smaller stay whole along that side.
        step: pixels from one square to the next; the last ones end at the border.
        workers: threads; decoding and encoding need no lock.
        report: told what happens.

    Returns:
        How many there are now.

    Raises:
        InputError: no such folder.
        ImageError: an image is damaged.
        OutputError: a square cannot be written.
    """
    paths = list_images(images)
    with ThreadPoolExecutor(workers) as pool:
        works = [
            pool.submit(_cut_image, path, out / path.relative_to(images).with_suffix(""), size, step) for path in paths
        ]
        try:
            for number, work in enumerate(works, 1):
                work.result()
                if number % REPORT_EVERY == 0:
                    report(f"  {number} of {len(paths)}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return count_images(out)


def find_starts(side: int, size: int, step: int) -> list[int]:
    """Where squares begin along a side, so that they reach its end."""
    last = max(side - size, 0)
    starts = list(range(0, last + 1, step))
    return starts if starts[-1] == last else [*starts, last]


def _cut_image(path: Path, folder: Path, size: int, step: int) -> None:
    if folder.is_dir():
        return
    image = read_training_image(path)
    with replacing_folder(folder) as temporary:
        number = 0
        for top in find_starts(image.shape[0], size, step):
            for left in find_starts(image.shape[1], size, step):
                number += 1
                square = image[top : top + size, left : left + size]
                write_image(temporary / f"{path.stem}_{number:03d}.png", square)
