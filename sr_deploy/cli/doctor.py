"""`sr-deploy doctor`."""

from __future__ import annotations

from sr_deploy.cli.output import JsonOption, Output


def doctor(as_json: JsonOption = False) -> None:
    """What this machine can do, what is missing, and the command that fixes it. Changes nothing."""
    from rich.table import Table

    from sr_deploy.runners.diagnosis import diagnose_machine

    output = Output(as_json)
    diagnosis = diagnose_machine()
    machine = diagnosis.machine
    output.show(f"machine: {machine.title()}")
    output.show(f"system:  {machine.os}, Python {machine.python}")
    output.show(f"disk:    {diagnosis.free_disk_gib:.1f} GiB free in {diagnosis.folder}")
    output.show(f"cache:   {diagnosis.cache} ({diagnosis.remembered_choices} choices of --backend auto)")
    backends = Table(title="Backends", title_justify="left")
    for name in ("backend", "version", "runs here", "builds engines here"):
        backends.add_column(name, overflow="fold")
    for backend in diagnosis.backends:
        backends.add_row(
            backend.name,
            backend.version or "absent",
            ", ".join(backend.runs) if backend.runs else f"no: {backend.why_not_run}",
            {True: "yes", False: f"no: {backend.why_not_build}", None: ""}[backend.builds],
        )
    output.show(backends)
    packages = Table(title="Packages", title_justify="left")
    for name in ("package", "version", "for", "get it with"):
        packages.add_column(name, overflow="fold")
    for package in diagnosis.packages:
        packages.add_row(package.name, package.version or "absent", package.purpose, package.install or "")
    output.show(packages)
    output.finish(diagnosis)
