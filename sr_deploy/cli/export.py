"""`sr-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.backends import QUANTIZED
from sr_deploy.cli.certificate import EXIT_CODES
from sr_deploy.cli.export_report import describe_choice, document_choice, document_export, show_export
from sr_deploy.cli.options import read_number
from sr_deploy.cli.output import JsonOption, Output
from sr_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sr_deploy.budget import Choice
    from sr_deploy.deploy import ExportResult
    from sr_deploy.export.spec import ExportSpec
    from sr_deploy.graph.io_dtype import IoDtype


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Published file, run folder, checkpoint or bundle; left out: the newest run in runs/."),
    ] = None,
    *,
    fp16: Annotated[bool, typer.Option("--fp16", help="Make the FP16 graph too.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Make a BF16 graph too, for TensorRT.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Make an INT8 graph within a budget too.")] = False,
    fp8: Annotated[
        bool, typer.Option("--fp8", help="Make an FP8 (E4M3) graph within a budget too, for Ada, Hopper and Blackwell.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs in high resolution to measure FP16, INT8 and FP8 on; left out: the bundled."
        ),
    ] = None,
    max_drop_db: Annotated[
        float | None,
        typer.Option(
            parser=read_number(0, 100),
            metavar="X",
            help="dB that INT8 and FP8 may lose against ground truth, left out: as the spec; without a precision: find "
            "the fastest that loses no more.",
        ),
    ] = None,
    calibration_method: Annotated[
        str | None, typer.Option(help="Ranges of INT8 and FP8: max, mse or percentile; left out: as the spec.")
    ] = None,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="One INT8 or FP8 scale for a whole weight, not one for each channel.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Keep an INT8 or FP8 graph that loses too much; the export then ends with code 3."
        ),
    ] = False,
    io_dtype: Annotated[
        str | None,
        typer.Option(help="I/O type of the graphs: fp32, fp16, uint8 or uint16 (NHWC); left out: as the spec."),
    ] = None,
    spec: Annotated[str, typer.Option(help="Deployment spec: a name from export/, or a .toml file.")] = "default",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Shapes that engines take, NAME=MIN,OPT,MAX, each NxHxW; may be repeated; instead of the spec's."
        ),
    ] = None,
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite/--no-rewrite", help="Rewrite graphs so that the same result takes less work."),
    ] = True,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What engines are built for: auto (each backend possible), one by name or none; left out: as the spec."
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(help="Folder of NVIDIA Triton models to write the graphs and TensorRT engines to as well."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="License of the weights, for the certificate; left out: as the checkpoint says, if it does."),
    ] = None,
    author: Annotated[str | None, typer.Option(help="Who trained the weights, likewise.")] = None,
    source: Annotated[str | None, typer.Option(help="Where the weights were published, likewise.")] = None,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Sign the bundle with this private key (PEM); verify --verify-key checks it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; left out: deployments/NAME.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a verified bundle: ONNX graphs, TensorRT engines, a certificate."""
    from sr_deploy.arch.spec import Attribution
    from sr_deploy.bundle import parse_profile
    from sr_deploy.deploy import export_bundle
    from sr_deploy.export.int8.bundle import Calibration
    from sr_deploy.export.spec import load_spec

    output = Output(as_json)
    profiles = tuple(parse_profile(text) for text in profile or ())
    wanted = load_spec(spec).with_options(
        fp16=fp16,
        bf16=bf16,
        int8=int8,
        fp8=fp8,
        int8_changes=_read_quantized(max_drop_db, calibration_method, per_tensor=per_tensor),
        io_dtype=_read_io_dtype(io_dtype),
        profiles=profiles,
        rewrite=rewrite,
    )
    searches = max_drop_db is not None and wanted.precisions == ("fp32",)
    _require_use(wanted.precisions, calibration, max_drop_db, searches=searches, force=force)
    given = checkpoint or _find_newest_checkpoint()
    choice = None
    with output.status() as on_progress:

        def make(asked: ExportSpec, calibrated: Calibration) -> ExportResult:
            return export_bundle(
                given,
                asked,
                out,
                backend,
                on_progress=on_progress,
                triton=triton,
                calibration=calibrated,
                attribution=Attribution(license=license, author=author, source=source),
                sign=sign,
            )

        if searches and max_drop_db is not None:
            from sr_deploy.budget import export_within

            result, choice = export_within(make, wanted, max_drop_db, calibration)
        else:
            result = make(wanted, Calibration(calibration, force))
    _present(output, result, choice, "" if searches else _measure_pace(result))
    if not result.passed:
        raise typer.Exit(EXIT_CODES[result.verification.verdict])


def _present(output: Output, result: ExportResult, choice: Choice | None, pace: str) -> None:
    """Show what was made, and what was chosen or how fast INT8 is."""
    show_export(output, result)
    for line in describe_choice(choice) if choice is not None else filter(None, [pace]):
        output.show(line)
    document = document_export(result) | ({"int8_pace": pace} if pace else {})
    output.finish(document | ({} if choice is None else {"choice": document_choice(choice)}))
    if not result.passed:
        said = result.verification.judgment.describe()
        output.log(f"error: {said}; the bundle is kept at {result.bundle.path}, see its certificate.json")


def _require_use(
    precisions: Collection[str],
    calibration: Path | None,
    max_drop_db: float | None,
    *,
    searches: bool,
    force: bool,
) -> None:
    """Refuse options that would change nothing.

    Raises:
        InputError: photographs, a budget or --force for precisions that take none.
    """
    if calibration is not None and not searches and not {"fp16", *QUANTIZED}.intersection(precisions):
        raise InputError("--calibration is for FP16, INT8 and FP8, and none is asked for; add --fp16, --int8 or --fp8")
    if max_drop_db is not None and not searches and not set(QUANTIZED).intersection(precisions):
        raise InputError(
            f"--max-drop-db is the budget of INT8 and FP8, and {', '.join(precisions)} is asked for; add --int8 or "
            "--fp8, or leave precisions out: then the fastest within the budget is found"
        )
    if force and searches:
        raise InputError(
            "--force keeps an INT8 or FP8 graph that loses too much; without --int8 and --fp8 there is none to keep"
        )


def _measure_pace(result: ExportResult) -> str:
    """How fast INT8 is here, and whether BF16 is faster; empty without INT8, and where nothing here runs it."""
    if result.bundle.manifest.int8 is None:
        return ""
    from sr_deploy.model import open_model
    from sr_deploy.runners.fastest import measure_int8_pace

    return measure_int8_pace(open_model(result.bundle.path))


def _read_quantized(max_drop_db: float | None, method: str | None, *, per_tensor: bool) -> dict[str, object]:
    """What the command line says of INT8 and FP8, as fields of the spec's [int8] and [fp8]."""
    from typing import get_args

    from sr_deploy.export.int8.quantization_options import Method

    if method is not None and method not in get_args(Method):
        raise InputError(f"--calibration-method takes {', '.join(get_args(Method))}, not {method!r}")
    changes: dict[str, object] = {"max_drop_db": max_drop_db, "method": method}
    changes["per_channel"] = False if per_tensor else None
    return {name: value for name, value in changes.items() if value is not None}


def _read_io_dtype(text: str | None) -> IoDtype | None:
    from sr_deploy.graph.io_dtype import IO_DTYPES

    for known in IO_DTYPES:
        if text == known:
            return known
    if text is not None:
        raise InputError(f"--io-dtype takes {', '.join(IO_DTYPES)}, not {text!r}")
    return None


def _find_newest_checkpoint() -> Path:
    from sr_deploy.train.run import find_newest_run

    return find_newest_run(Path("runs"))
