"""`sr-deploy degrade`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sr_deploy.cli.output import JsonOption, Output


def degrade(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A photograph.")],
    *,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="A recipe with a [degradation]: a name from train/ or a TOML file.")
    ] = "realesrnet",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The picture to write. Left out: NAME-degraded.png in this folder."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="Samples to draw.")] = 6,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Where random draws begin; the recipe's if left out.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Change one value of the recipe, as for train; repeatable."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the training degradation makes of a photograph: a sheet of originals, kernels and results.

    Each sample is a batch of its own, so that it also shows what a training draws once for a batch.
    """
    from sr_deploy.errors import RecipeError
    from sr_deploy.imaging.codec import read_training_image, write_image
    from sr_deploy.imaging.formats import find_format
    from sr_deploy.train.recipe import load_recipe

    output = Output(as_json)
    target = out or Path(f"{image.stem}-degraded.png")
    find_format(target)
    chosen = load_recipe(recipe, settings or [])
    if chosen.degradation is None:
        raise RecipeError(
            f"recipe {chosen.name!r} has no [degradation]: it makes low resolution by bicubic alone; "
            "choose another with --recipe, such as realesrnet"
        )
    photograph = read_training_image(image)

    from sr_deploy.train.degradation.sheet import draw_contact_sheet

    used_seed = chosen.seed if seed is None else seed
    sheet = draw_contact_sheet(
        photograph,
        chosen.degradation,
        scale=chosen.scale,
        patch_size=chosen.data.patch_size,
        seed=used_seed,
        count=count,
    )
    write_image(target, sheet.image)
    output.show(f"{target}: {count} sample{'s' if count > 1 else ''} of {chosen.name}, scale {chosen.scale}")
    output.finish(
        {
            "path": str(target),
            "source": str(image),
            "recipe": chosen.name,
            "scale": chosen.scale,
            "seed": used_seed,
            "samples": sheet.samples,
        }
    )
