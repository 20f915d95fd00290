"""Show which share of the patches each source of a recipe gets, and each scale, by drawing them as a training does.

    python train/data_shares.py realesrgan --data photographs/images
    python train/data_shares.py realesrgan --set 'data.source=[{folder="DF2K"}, {folder="OST", scaled=false}]'

Reads the headers of all pictures, decodes none, and trains nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from sr_deploy.config import format_toml_value
from sr_deploy.errors import SrDeployError
from sr_deploy.train.mixture import WHOLE, build_mixture
from sr_deploy.train.paired import training_files
from sr_deploy.train.recipe import Recipe, load_recipe
from sr_deploy.train.recipe_images import open_training_images
from sr_deploy.train.sampling import random_for


def list_shares(recipe: Recipe, draws: int) -> list[tuple[str, str, int, float]]:
    """Source, scale, number of pictures, and the share of the patches that were drawn, in percent."""
    files = training_files(recipe)
    sources = files.sources
    mixture = build_mixture(recipe, open_training_images(recipe, files), sources)
    source_of = [number for number, source in enumerate(sources) for _ in source.paths]
    pictures, drawn = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    for entry in mixture.entries if mixture is not None else ():
        pictures[entry.source, entry.scale.title] += 1
    for step in range(draws):
        random = random_for(recipe.seed, 0, step, 0)
        if mixture is None:
            drawn[source_of[int(random.integers(len(source_of)))], WHOLE.title] += 1
        else:
            entry = mixture.draw(random)
            drawn[entry.source, entry.scale.title] += 1
    return [
        (sources[source].name, scale, pictures[source, scale] or len(sources[source].paths), 100 * count / draws)
        for (source, scale), count in sorted(drawn.items(), key=lambda one: (one[0][0], -one[1]))
    ]


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What was asked for; exits with code 2 on misuse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a recipe, or a TOML file")
    parser.add_argument("--data", type=Path, help="one folder in place of the recipe's data, as with train --data")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="section.key=value; repeatable")
    parser.add_argument("--draws", type=int, default=100_000, help="patches that are drawn [100,000]")
    chosen = parser.parse_args(arguments)
    if chosen.draws < 1:
        parser.error("--draws is at least 1")
    return chosen


def run(arguments: list[str]) -> int:
    """Print the table; the exit code."""
    chosen = parse_arguments(arguments)
    data = [f"data.folder={format_toml_value(str(chosen.data))}", "data.source=[]"] if chosen.data else []
    try:
        rows = list_shares(load_recipe(chosen.recipe, [*chosen.settings, *data]), chosen.draws)
    except SrDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("source | scale | pictures | % of the patches\n---|---|---:|---:")
    for source, scale, count, share in rows:
        print(f"{source} | {scale} | {count} | {share:.1f}")
    for name in dict.fromkeys(source for source, *_ in rows):
        print(f"{name}: {sum(share for source, *_, share in rows if source == name):.1f} % in all")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
