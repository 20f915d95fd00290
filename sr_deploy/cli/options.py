"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.legible import show_value

if TYPE_CHECKING:
    from sr_deploy.bundle.trust import EngineTrust


def read_number(minimum: float, maximum: float) -> Callable[[str], float]:
    """A reader of an option that takes a finite number in [least, most]; what it does not take is wrong usage.

    Typer's own ranges let NaN through, since it is neither below nor above anything.
    """

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not minimum <= number <= maximum:
            raise typer.BadParameter(f"{show_value(text)} is not a number from {minimum:g} to {maximum:g}.")
        return number

    return read


BackendOption = Annotated[
    str, typer.Option(help="auto, or NAME[:PRECISION] as in openvino:fp32; NAME alone means fp32.")
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65536,
        metavar="N",
        help="Tiles, or frames that need no tiles, that go through the network at once. Left out: what a measurement "
        "finds on a GPU, 1 on a CPU.",
    ),
]
TrustEngineOption = Annotated[
    bool,
    typer.Option(
        "--trust-engine",
        help="Open engines that were built elsewhere, too: an engine is code, and this runs it.",
    ),
]
HostCodeOption = Annotated[
    bool,
    typer.Option("--engine-host-code", help="Let version-compatible engines run the CPU code that they contain."),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65536,
        help="Side of a tile in input pixels, without overlap; 0: the whole picture at once. Left out: the whole "
        "picture if it is small, else what the overlap and the free memory suggest.",
    ),
]


def read_trust(trust_engine: bool, host_code: bool = False) -> EngineTrust:
    """What the two options allow."""
    from sr_deploy.bundle.trust import EngineTrust

    return EngineTrust(elsewhere=trust_engine, host_code=host_code)
