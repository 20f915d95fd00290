"""Time how many patches a second the threads of a training cut from photographs that are decoded when they are drawn.

    python benchmarks/training_data.py                   # esrgan-psnr and realesrnet, three settings each: two minutes
    python benchmarks/training_data.py --recipe srresnet --workers 8

Photographs are 1200 PNG files of 2040 x 1356 under names of their own, made of bundled ones; the cache holds 32 of
them, so that nearly each that is drawn is decoded. The files are few behind their names and stay in the memory of the
system: time of a drive is not in it. Batches are made as the loop asks for them, and no network is at work.
Results that go into benchmarks/results go into docs/training.md too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pages import describe_run, head_lines, make_table, replace_table, write_results

from sr_deploy.config import format_toml_value
from sr_deploy.imaging.codec import bundled_photographs, read_training_image, training_decoder, write_image
from sr_deploy.train.mixture import build_mixture
from sr_deploy.train.paired import training_files
from sr_deploy.train.recipe import load_recipe
from sr_deploy.train.recipe_images import open_training_images
from sr_deploy.train.sampling import PatchSampler, iterate_batches

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "training.md"
HEIGHT, WIDTH = 1356, 2040
NAMES = 1200
CACHED = 32
BATCH = 16
PATCHES_PER_DECODE = (1, 4, 16)


@dataclass(frozen=True)
class Row:
    """What one setting gives."""

    recipe: str
    side: int
    """Of the patch, or of the canvas of a degradation, in pixels."""
    patches_per_decode: int
    patches_per_second: float


def make_photographs(folder: Path) -> None:
    """Six pictures, and as many links to them as there are names."""
    folder.mkdir()
    names = ("astronaut", "coffee", "chelsea", "immunohistochemistry", "motorcycle_left", "rocket")
    known = bundled_photographs()
    for number, name in enumerate(one for one in names if one in known):
        image = read_training_image(known[name])
        missing = [(0, max(wanted - have, 0)) for wanted, have in zip((HEIGHT, WIDTH), image.shape[:2], strict=True)]
        whole = np.pad(image, (*missing, (0, 0)), mode="reflect")[:HEIGHT, :WIDTH]
        write_image(folder / f"{number}.png", np.ascontiguousarray(whole))
    originals = sorted(folder.iterdir())
    for number in range(len(originals), NAMES):
        os.link(originals[number % len(originals)], folder / f"{number}.png")


def measure(name: str, folder: Path, count: int, workers: int, batches: int) -> Row:
    """Time batches after the first one: as many decoded photographs, whatever each gives."""
    cache_gib = CACHED * HEIGHT * WIDTH * 3 / 2**30
    settings = [f"data.folder={format_toml_value(str(folder))}", f"data.batch={BATCH}", f"data.workers={workers}"]
    recipe = load_recipe(name, [*settings, f"data.cache_gib={cache_gib}", f"data.patches_per_decode={count}"])
    files = training_files(recipe)
    photographs = open_training_images(recipe, files)
    sampler = PatchSampler(photographs, recipe, mixture=build_mixture(recipe, photographs, files.sources))
    stream = iterate_batches(sampler, 0, 1 + batches * count, workers)
    next(stream)
    began = time.perf_counter()
    patches = sum(len(batch.hr) for batch in stream)
    seconds = time.perf_counter() - began
    side = recipe.degradation.canvas if recipe.degradation is not None else recipe.data.patch_size
    return Row(name, side, count, patches / seconds)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", help="name of a recipe; repeatable [esrgan-psnr and realesrnet]")
    parser.add_argument("--workers", type=int, default=2, help="threads that prepare batches [2]")
    parser.add_argument("--batches", type=int, default=12, help="times patches_per_decode: batches that are timed [12]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the .json and .md")
    options = parser.parse_args()
    head = {
        **describe_run("numpy", "pyvips", "pillow"),
        "load before": f"{os.getloadavg()[0]:.1f} running processes on average, of other work",
        "decoder": training_decoder(),
        "threads": options.workers,
        "photographs": f"{WIDTH} x {HEIGHT}, PNG, 8 bit; {CACHED} of {NAMES} in the cache; batch {BATCH}",
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photographs"
        make_photographs(folder)
        rows = []
        for name in options.recipe or ("esrgan-psnr", "realesrnet"):
            for count in PATCHES_PER_DECODE:
                rows.append(measure(name, folder, count, options.workers, options.batches))
                print(f"{name}, patches_per_decode {count}: {rows[-1].patches_per_second:.1f} patches/s", flush=True)
    table = make_table(
        "recipe | side of what is cut | patches_per_decode | patches a second",
        ((row.recipe, row.side, row.patches_per_decode, f"{row.patches_per_second:.1f}") for row in rows),
    )
    page = (
        "\n".join([*head_lines("Patches from photographs that are decoded", "training_data.py", head), *table]) + "\n"
    )
    write_results(options.out / "training_data", {**head, "rows": [asdict(row) for row in rows]}, page)
    if options.out == RESULTS:
        replace_table("patches a second", "\n".join(table), PAGE)


if __name__ == "__main__":
    main()
