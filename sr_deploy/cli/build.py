"""`sr-deploy build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from sr_deploy.engine.bundle import BuildResult


def build(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle to build engines for; left out: the newest in deployments/.")
    ] = None,
    *,
    backend: Annotated[
        str, typer.Option(help="What builds: auto (all that can here), tensorrt or tensorrt-rtx.")
    ] = "auto",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Shapes that engines take, NAME=MIN,OPT,MAX, each NxHxW; may be repeated; default the bundle's."
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU to build for with tensorrt-rtx, as in sm89; may be repeated; default all that it knows."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build the engines of a bundle, on the machine that will run them; those that still hold are kept."""
    from typing import cast

    from sr_deploy.bundle import find_newest_bundle, parse_profile
    from sr_deploy.deploy import DEPLOYMENTS
    from sr_deploy.engine.bundle import EngineBackend, build_engines
    from sr_deploy.errors import InputError

    output = Output(as_json)
    if backend == "none":
        raise InputError("`build` with --backend none has nothing to do; give auto, tensorrt or tensorrt-rtx")
    path = bundle or find_newest_bundle(DEPLOYMENTS)
    result = build_engines(
        path,
        cast("EngineBackend", backend),
        profiles=tuple(parse_profile(text) for text in profile or ()),
        compute_capabilities=tuple(compute_capability or ()),
        on_stage=output.log,
    )
    _show(output, path, result)
    output.finish(_document(path, result))


def _show(output: Output, path: Path, result: BuildResult) -> None:
    from rich.table import Table

    output.show(f"engines of {path}")
    table = Table()
    for column in ("engine", "backend", "precision", "for", "size", "seconds", ""):
        right = column in ("size", "seconds")
        table.add_column(column, justify="right" if right else "left", no_wrap=column == "engine")
    for records, state in ((result.built, "built"), (result.kept, "kept")):
        for record in records:
            size = (path / record.engine.file).stat().st_size
            table.add_row(
                record.engine.file,
                f"{record.backend} {record.backend_version}",
                record.precision,
                record.target.replace("+", " "),
                f"{size / 1e6:.1f} MB",
                f"{record.build_seconds:.1f}",
                state,
            )
    output.show(table)
    for file in result.removed:
        output.show(f"removed: {file}, which was stale")
    for missing in result.not_built:
        output.show(f"not built here: {missing.backend}: {missing.reason}")


def _document(path: Path, result: BuildResult) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "bundle": str(path),
        "built": [record.model_dump(mode="json") for record in result.built],
        "kept": [record.model_dump(mode="json") for record in result.kept],
        "removed": list(result.removed),
        "not_built": [asdict(missing) for missing in result.not_built],
    }
