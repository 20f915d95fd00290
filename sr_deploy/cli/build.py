"""`sr-deploy build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.certificate import describe_judgment
from sr_deploy.cli.options import TrustEngineOption, read_trust
from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from sr_deploy.bundle import EngineRecord
    from sr_deploy.engine.bundle import BuildResult


def build(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Bundle or ONNX file to build engines for; left out: the newest in deployments/."),
    ] = None,
    *,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What to build for: auto (each backend possible) or one by name; left out: as the bundle says."
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Shapes that engines take, NAME=MIN,OPT,MAX, each NxHxW; may be repeated; default the bundle's."
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU to build for without having it, as in sm89; may be repeated; default the bundle's, or all known."
        ),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="How hard to search for fast kernels; left out: the SDK's default."),
    ] = None,
    workspace: Annotated[
        float | None, typer.Option(help="Most scratch memory for a layer, in GiB; left out: all of the GPU's.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Let later releases of the major version run it.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Let every GPU from Ampere on run it.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out; opening puts them back from the graph.")
    ] = False,
    refittable: Annotated[
        bool, typer.Option("--refittable", help="Let weights be exchanged in the built engine.")
    ] = False,
    trust_engine: TrustEngineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build engines of a bundle or an ONNX file, on the machine that will run them; those that still hold are kept."""
    from sr_deploy.bundle import find_newest_bundle, list_engine_backends, parse_profile
    from sr_deploy.deploy import DEPLOYMENTS
    from sr_deploy.engine.place import find_place
    from sr_deploy.errors import InputError
    from sr_deploy.verification.verify import build_engines

    output = Output(as_json)
    *first, last, _none = list_engine_backends()
    able = f"{', '.join(first)} or {last}"
    if backend == "none":
        raise InputError(f"`build` with --backend none has nothing to do; give {able}")
    path = bundle or find_newest_bundle(DEPLOYMENTS)
    shapes = tuple(parse_profile(text) for text in profile or ())
    place = find_place(path, shapes)
    if backend is None and place.plan.backend == "none":
        raise InputError(f"the spec of {path} asks for no engines; give --backend {able}")
    options = place.plan.with_options(
        optimization_level=optimization_level,
        workspace_gib=workspace,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        strip_weights=strip_weights,
        refittable=refittable,
    )
    with output.status() as on_progress:
        result = build_engines(
            path,
            backend,
            profiles=shapes,
            compute_capabilities=tuple(compute_capability or ()),
            options=options,
            trust=read_trust(trust_engine),
            on_progress=on_progress,
        )
    _show(output, place.folder.path, result)
    output.finish(_document(place.folder.path, result))


def _show(output: Output, path: Path, result: BuildResult) -> None:
    from rich.table import Table

    output.show(f"engines of {path}")
    table = Table()
    for column in ("engine", "backend", "multiply-adds", "for", "size", "seconds", ""):
        right = column in ("size", "seconds")
        table.add_column(column, justify="right" if right else "left", no_wrap=column == "engine")
    for records, state in ((result.built, "built"), (result.kept, "kept")):
        for record in records:
            size = (path / record.engine.file).stat().st_size
            table.add_row(
                record.engine.file,
                f"{record.backend} {record.backend_version}",
                describe_shares(record),
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
    if result.judgment is not None:
        output.show(result.judgment.describe())


def describe_shares(record: EngineRecord) -> str:
    """What the engine declares to compute in, as in `93.1 % int8, 6.9 % fp16`."""
    return ", ".join(f"{share:.1%} {name}".replace("%", " %") for name, share in record.multiply_add_shares.items())


def _document(path: Path, result: BuildResult) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "bundle": str(path),
        "built": [record.model_dump(mode="json") for record in result.built],
        "kept": [record.model_dump(mode="json") for record in result.kept],
        "removed": list(result.removed),
        "not_built": [asdict(missing) for missing in result.not_built],
        **({} if result.judgment is None else describe_judgment(result.judgment)),
    }
