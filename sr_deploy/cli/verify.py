"""`sr-deploy verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sr_deploy.cli.certificate import describe_verdict, show_certificate
from sr_deploy.cli.output import JsonOption, Output


def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="A bundle, an ONNX file (anybody's) or a checkpoint; left out: the newest bundle."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="NAME[:PRECISION]",
            help="Verify this one only, as in openvino:bf16; repeatable. Left out: all that this machine can run.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what runs with what was trained: every graph and engine against FP32 PyTorch, on photographs.

    A bundle's result is written to its certificate.json. Exit code 3 when something falls short.
    """
    from sr_deploy.backends import parse_backend
    from sr_deploy.bundle import find_newest_bundle
    from sr_deploy.bundle.store import CERTIFICATE_NAME
    from sr_deploy.model import open_model
    from sr_deploy.verify.model import list_not_run, verify_model

    output = Output(as_json)
    choices = [parse_backend(text) for text in backend] if backend else None
    opened = open_model(model or find_newest_bundle(Path("deployments")))
    entries = verify_model(opened, choices=choices, on_stage=output.log)
    not_run = list_not_run(opened, choices)
    passed = all(entry.passed for entry in entries)
    certificate = opened.path / CERTIFICATE_NAME if opened.kind == "bundle" else None
    show_certificate(output, str(opened.path), entries, not_run)
    if certificate is not None:
        output.show(f"written: {certificate}")
    output.show(describe_verdict(entries))
    output.finish(
        {
            "model": str(opened.path),
            "passed": passed,
            "entries": [entry.model_dump(mode="json") for entry in entries],
            "not_run": [{"what": one.what, "reason": one.reason} for one in not_run],
            "certificate": str(certificate) if certificate else None,
        }
    )
    if not passed:
        raise typer.Exit(3)
