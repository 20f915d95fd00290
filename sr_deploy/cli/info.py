"""`sr-deploy info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.output import JsonOption, Output, format_size

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.cli.description import CostFacts, Description, EngineFacts, FileFacts, GraphFacts


def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint, an ONNX file, a bundle, an engine inside its bundle, a training run's folder "
            "(RUN@best, RUN@last or RUN@STEP: one of its checkpoints), or a discriminator's weights."
        ),
    ],
    *,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer of the ONNX graphs: operations, bytes, precision.")
    ] = False,
    shape: Annotated[
        str | None,
        typer.Option(help="Input that --layers counts for, NxHxW; left out: 1x256x256, or the graph's own."),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Draw a training run's losses and quality into this .svg file.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a training run into this .html file: scores, pictures, curves, recipe, machine."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a checkpoint, an ONNX file, a bundle, an engine or a training run.

    Says what network it is, what it costs for each input pixel, how far it looks, and where it came from.
    """
    from sr_deploy.bundle import parse_shape
    from sr_deploy.cli.description import describe
    from sr_deploy.cli.layers import describe_listed, list_layers, make_layers_table
    from sr_deploy.errors import DiscriminatorFoundError, InputError
    from sr_deploy.model import open_model

    output = Output(as_json)
    if shape is not None and not layers:
        raise InputError(f"--shape {shape} says what --layers counts for; give --layers too")
    if curves is not None:
        from sr_deploy.run_folder import split_checkpoint_name
        from sr_deploy.train.curves import draw_curves

        draw_curves(split_checkpoint_name(path)[0], curves)
        output.log(f"drawn: {curves}")
    if html is not None:
        from sr_deploy.run_folder import split_checkpoint_name
        from sr_deploy.train.page.render import write_training_page

        write_training_page(split_checkpoint_name(path)[0], html)
        output.log(f"written: {html}")
    try:
        model = open_model(path)
        description = describe(model)
    except DiscriminatorFoundError:
        return _show_discriminator(path, output, layers=layers)
    except InputError as error:
        if html is None or as_json:
            raise
        return output.log(f"nothing more to say of it: {error}")  # the page has what there is of such a run
    listed = list_layers(model, parse_shape(shape) if shape else None) if layers else {}
    output.show(f"{description.path}: {description.kind}")
    for part in lay_out(description):
        output.show(part)
    for file, (taken, counted) in listed.items():
        output.show(make_layers_table(file, taken, counted))
    output.finish(asdict(description) | ({"layers": describe_listed(listed)} if layers else {}))


def _show_discriminator(path: Path, output: Output, *, layers: bool) -> None:
    from sr_deploy.cli.description import describe_discriminator
    from sr_deploy.errors import InputError

    if layers:
        raise InputError(f"{path} is a discriminator and has no ONNX graph, so there are no layers to list")
    description = describe_discriminator(path)
    rows = [
        ("network", description.network),
        ("parameters", f"{description.parameters:,}"),
        ("weights", format_file(description.weights, description.path)),
    ]
    output.show(f"{description.path}: {description.kind}")
    output.show(_make_table(rows))
    output.finish(asdict(description))


def lay_out(description: Description) -> list[Table]:
    """Tables for people: the facts, then graphs, engines and measurements."""
    parts: list[Table] = [_make_table(list_facts(description))]
    if len(description.graphs) > 1 or (description.graphs and description.kind == "bundle"):
        parts.append(_graphs_table(description))
    if description.engines and description.kind == "bundle":
        parts.append(_engines_table(description))
    return parts


def _make_table(facts: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, value)
    return table


def list_facts(description: Description) -> list[tuple[str, str]]:
    """The rows of the first table."""
    color = "RGB" if description.channels == 3 else "gray"
    rows = [("network", description.network or f"x{description.scale}, {color} (architecture unknown)")]
    if description.layout:
        rows.append(("layout", description.layout))
    rows += [("note", note) for note in description.notes]
    if description.input_multiple > 1:
        rows.append(("input sides", f"multiples of {description.input_multiple}"))
    if description.kind == "graph":
        rows += _list_graph_facts(description.graphs[0])
    if description.kind == "engine":
        rows += _list_engine_facts(description.engines[0])
    if description.cost:
        rows += _list_cost(description.cost)
    if description.weights:
        rows.append(("weights", format_file(description.weights, description.path)))
    rows += list(description.attribution.items()) if description.kind == "checkpoint" else []
    if description.source:
        rows.append(("source", ", ".join(f"{key} {_shorten(key, text)}" for key, text in description.source.items())))
    if description.created_at:
        rows.append(("made", description.created_at))
    if description.tools:
        rows.append(("tools", ", ".join(f"{name} {version}" for name, version in description.tools.items())))
    if description.certificate:
        verified = description.certificate.verified
        rows += [
            ("verdict", description.certificate.verdict_text),
            *([("last verified", verified)] if verified else []),
            ("certificate", description.certificate.state),
            *(("", line) for line in description.certificate.entries),
        ]
    return rows


def _describe_flops(cost: CostFacts) -> str:
    if cost.flops_per_input_pixel is None:
        return "not known: shapes inside the graph do not follow from its nodes"
    return f"{format_flops(cost.flops_per_input_pixel)} per input pixel, {format_share(cost.precision_share)}"


def _list_cost(cost: CostFacts) -> list[tuple[str, str]]:
    rows = [
        ("parameters", f"{cost.parameters:,}"),
        ("cost", _describe_flops(cost)),
        ("receptive radius", format_radius(cost.receptive_radius)),
    ]
    if cost.bytes_per_input_pixel is not None:
        moved = f"{format_size(round(cost.bytes_per_input_pixel))} per input pixel, as its layers read and write them"
        rows.insert(2, ("feature maps", moved))
    return rows


def _list_graph_facts(graph: GraphFacts) -> list[tuple[str, str]]:
    rows = [
        ("I/O", graph.io),
        ("precision", graph.precision),
        ("graph", f"{graph.nodes} nodes, opset {graph.opset}"),
        *_list_cost(graph.cost),
        ("file", format_file(graph.file, graph.file.file)),
    ]
    # The architecture is the table's first row already.
    stated = [f"{key} = {_shorten(key, text)}" for key, text in graph.metadata.items() if key != "sr_deploy.arch"]
    return rows + [("metadata" if number == 0 else "", line) for number, line in enumerate(stated)]


def _list_engine_facts(engine: EngineFacts) -> list[tuple[str, str]]:
    return [
        ("precision", f"{engine.precision}; layers: {format_counts(engine.layer_precisions)}; {engine.inspected}"),
        ("built by", f"{engine.builder} for {engine.target}, {engine.built_at}"),
        ("profiles", "; ".join(engine.profiles)),
        ("file", format_file(engine.file, engine.file.file)),
    ]


def _graphs_table(description: Description) -> Table:
    from rich.table import Table

    table = Table(title="graphs", title_justify="left")
    for name in ("file", "nodes", "parameters", "per input pixel", "moved", "precision", "radius", "size", "sha256"):
        table.add_column(name, justify="left" if name in ("file", "precision", "sha256") else "right")
    for graph in description.graphs:
        cost = graph.cost
        table.add_row(
            Path(graph.file.file).name,
            str(graph.nodes),
            f"{cost.parameters:,}",
            "not known" if cost.flops_per_input_pixel is None else format_flops(cost.flops_per_input_pixel),
            "not known" if cost.bytes_per_input_pixel is None else format_size(round(cost.bytes_per_input_pixel)),
            format_share(cost.precision_share),
            format_radius(cost.receptive_radius),
            format_size(graph.file.size_bytes),
            graph.file.sha256[:12],
        )
    return table


def _engines_table(description: Description) -> Table:
    from rich.table import Table

    table = Table(title="engines", title_justify="left")
    for name in ("key", "builder", "precision", "built for", "profiles", "size"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for engine in description.engines:
        table.add_row(
            Path(engine.file.file).stem,
            engine.builder,
            engine.precision,
            engine.target.replace("+", " "),
            "; ".join(engine.profiles),
            format_size(engine.file.size_bytes),
        )
    return table


def format_flops(flops: float) -> str:
    """As in `35.9 MFLOP`: three digits, in thousands or millions."""
    if flops >= 999_500:
        return f"{flops / 1e6:.{2 if flops < 9.995e6 else 1}f} MFLOP"
    return f"{flops / 1e3:.{2 if flops < 9995 else 1}f} kFLOP"


def format_share(share: Mapping[str, float]) -> str:
    """As in `95 % int8, 5 % fp16`, or the one precision alone."""
    if len(share) == 1:
        return next(iter(share))
    ordered = sorted(share.items(), key=lambda item: -item[1])
    return ", ".join(f"{100 * part:.3g} % {precision}" for precision, part in ordered) or "no multiply-adds"


def format_radius(radius: int | None) -> str:
    """As in `18 px`."""
    return "not bounded, or not known" if radius is None else f"{radius} px"


def format_counts(counts: Mapping[str, int]) -> str:
    """As in `40 HALF, 2 FLOAT`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "not known"


def format_file(file: FileFacts, shown_path: str) -> str:
    """Size and short hash, and the path where it is not the one that was asked about."""
    where = "" if file.file == shown_path else f"{file.file}, "
    return f"{where}{format_size(file.size_bytes)}, sha256 {file.sha256[:12]}"


def _shorten(key: str, text: str) -> str:
    return text[:12] if key.endswith("sha256") else text
