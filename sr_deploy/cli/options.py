"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

BackendOption = Annotated[
    str, typer.Option(help="auto, or NAME[:PRECISION] as in openvino:fp32; NAME alone means fp32.")
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tiles, or frames that need no tiles, that go through the network at once. Left out: what a measurement "
        "finds on a GPU, 1 on a CPU.",
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Side of a tile in input pixels, without overlap; 0: the whole picture at once. Left out: the whole "
        "picture if it is small, else what the overlap and the free memory suggest.",
    ),
]
