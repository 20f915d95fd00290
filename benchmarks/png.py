"""PNG encoders in turns on photographs: processor time and bytes of ours, and of libpng as libvips calls it.

python benchmarks/png.py FOLDER --out benchmarks/results
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyvips
from pages import describe_command, make_table, write_results

from sr_deploy.imaging.decoded_image import decode_image
from sr_deploy.imaging.header import Header
from sr_deploy.imaging.png import make_png
from sr_deploy.measure.machine import describe_machine

Encoder = Callable[[np.ndarray], bytes]


def call_libvips(compression: int, filters: str) -> Encoder:
    """PNG of libvips at a level of zlib, with one filter or a choice of all."""
    return lambda pixels: pyvips.Image.new_from_array(pixels).pngsave_buffer(compression=compression, filter=filters)


def encode(pixels: np.ndarray) -> bytes:
    """PNG as `upscale` writes it."""
    height, width, channels = pixels.shape
    return b"".join(make_png(Header(width, height, channels, 8, False), 8, [pixels]))


ENCODERS: dict[str, Encoder] = {
    "ours (average, ISA-L 2)": encode,
    "libpng, average, zlib 2": call_libvips(2, "avg"),
    "libpng, average, zlib 1": call_libvips(1, "avg"),
    "libpng, all filters, zlib 6": call_libvips(6, "all"),
}


def main() -> None:
    """Measure, and write `png.json` and `png.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    pictures = [decode_image(path).pixels for path in sorted(arguments.folder.iterdir())]
    megapixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures) / 1e6
    times: dict[str, list[float]] = {name: [] for name in ENCODERS}
    sizes: dict[str, int] = {}
    for _ in range(arguments.rounds):
        for name, encoder in ENCODERS.items():
            begun = time.process_time()
            sizes[name] = sum(len(encoder(picture)) for picture in pictures)
            times[name].append(time.process_time() - begun)
    machine = describe_machine()
    versions = {name: version(name) for name in ("isal", "pyvips", "numpy")}
    rows = {
        name: {
            "ms_per_megapixel": round(1e3 * statistics.median(times[name]) / megapixels, 2),
            "kb_per_megapixel": round(sizes[name] / 1e3 / megapixels),
        }
        for name in ENCODERS
    }
    facts = {"command": describe_command(), "cpu": machine.cpu, "versions": versions, "pictures": len(pictures)}
    cells = ((name, f"{row['ms_per_megapixel']:.1f}", row["kb_per_megapixel"]) for name, row in rows.items())
    lines = [
        "# PNG encoders", "",
        f"Written by `{describe_command()}`: {len(pictures)} pictures, {megapixels:.1f} megapixels, median of "
        f"{arguments.rounds} turns; one core of {machine.cpu}; "
        + ", ".join(f"{name} {number}" for name, number in versions.items()) + "; do not edit.",
        "", *make_table("encoder | processor time, ms per megapixel | kB per megapixel", cells),
    ]  # fmt: skip
    write_results(arguments.out / "png", facts | {"rows": rows}, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
