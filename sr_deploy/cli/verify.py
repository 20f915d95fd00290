"""`sr-deploy verify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.certificate import EXIT_CODES, describe_judgment, show_bisection, show_verification
from sr_deploy.cli.options import HostCodeOption, TrustEngineOption, read_trust
from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from sr_deploy.bundle.trust import EngineTrust


def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="A bundle, any ONNX file or a checkpoint; left out: the newest bundle."),
    ] = None,
    *,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="NAME[:PRECISION]",
            help="Verify this one only, as in openvino:bf16; repeatable. Left out: all that this machine can run.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write the certificate as one HTML page here too; a bundle has it as certificate.html anyway.",
        ),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Find the first node of each graph that computes something else, and name it."),
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Compare the FP32 graph with a new export too: up to a minute."),
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(help="The checkpoint or run that the bundle was made from: compare the weights with it."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept",
            metavar="NAME",
            help="Accept the finding with this name in the verdict; repeatable. The certificate says who accepted it.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with code 3 instead of 4 where no backend ran one of the graphs.")
    ] = False,
    verify_key: Annotated[
        Path | None,
        typer.Option(
            "--verify-key",
            metavar="PUBKEY",
            help="Require a signature by the owner of this public key (PEM), before anything else is checked.",
        ),
    ] = None,
    trust_engine: TrustEngineOption = False,
    engine_host_code: HostCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare what runs with what was trained: every graph and engine against FP32 PyTorch, on many inputs.

    A bundle's result is written to its certificate.json and certificate.html. Exit code 3 when something falls short,
    or a file is not what it was when it was recorded; 4 when no backend here runs one of the graphs.
    """
    from sr_deploy.bundle.store import is_bundle
    from sr_deploy.errors import BundleError, DamagedBundleError, VerificationError

    trust = read_trust(trust_engine, engine_host_code)
    request = _Request(
        deep=deep,
        bisect=bisect,
        source=source,
        accept=tuple(accept or ()),
        strict=strict,
        verify_key=verify_key,
        trust=trust,
    )
    try:
        _verify(model, backend, html, request, Output(as_json))
    except BundleError as error:  # for other commands wrong input, here the very finding
        if not isinstance(error, DamagedBundleError) and not (model is not None and is_bundle(model)):
            raise  # there is none
        raise VerificationError(f"NOT verified: {error}") from error


@dataclass(frozen=True)
class _Request:
    """What is asked besides the model and who computes."""

    deep: bool
    bisect: bool
    source: Path | None
    accept: tuple[str, ...]
    strict: bool
    verify_key: Path | None
    trust: EngineTrust


def _verify(
    model: Path | None, backend: list[str] | None, html: Path | None, request: _Request, output: Output
) -> None:
    from sr_deploy.backends.registry import parse_backend
    from sr_deploy.bundle import find_newest_bundle
    from sr_deploy.bundle.signature import check_signature
    from sr_deploy.errors import DamagedBundleError, GraphError
    from sr_deploy.model import open_model
    from sr_deploy.verification.bisect import bisect_model
    from sr_deploy.verification.verify import verify_model

    choices = [parse_backend(text) for text in backend] if backend else None
    path = model or find_newest_bundle(Path("deployments"))
    signed = None if request.verify_key is None else check_signature(path, request.verify_key)
    opened = open_model(path, request.trust)
    try:
        verification = verify_model(
            opened,
            choices=choices,
            deep=request.deep,
            source=request.source,
            accept=request.accept,
            signed=signed,
        )
    except GraphError as error:
        if opened.kind == "bundle":  # one of its own graphs: the very finding
            raise DamagedBundleError(str(error)) from error
        raise
    if html is not None:
        verification.write_html(html)
    bisections = bisect_model(opened) if request.bisect else []
    show_verification(output, str(opened.path), verification)
    for bisection in bisections:
        show_bisection(output, bisection)
    written = [*verification.written, *([] if html is None else [html])]
    if written:
        output.show(f"written: {', '.join(map(str, written))}")
    output.show(verification.judgment.describe())
    output.finish(
        {
            "model": str(opened.path),
            **describe_judgment(verification.judgment),
            "entries": [entry.model_dump(mode="json") for entry in verification.entries],
            "elsewhere": [entry.model_dump(mode="json") for entry in verification.elsewhere],
            "checks": [check.model_dump(mode="json") for check in verification.checks],
            "error_budgets": [error_budget.model_dump(mode="json") for error_budget in verification.error_budgets],
            "not_run": [one.model_dump(mode="json") for one in verification.not_run],
            "bisections": [bisection.model_dump(mode="json") for bisection in bisections],
            "certificate": str(verification.written[0]) if verification.written else None,
            "html": str(written[-1]) if written else None,
        }
    )
    code = EXIT_CODES[verification.verdict]
    if code:
        raise typer.Exit(3 if request.strict else code)
