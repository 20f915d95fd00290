"""Commands with hostile values of options, and with hostile names of files."""

from __future__ import annotations

import random
from pathlib import Path

_NUMBERS = (
    "0", "-1", "1e308", "inf", "-inf", "nan", "1" * 5000, "0x10", "1e-400", "", " ", "٣", "1_0", "9" * 30, "--", "-0",
    "1.5", "½",
)  # fmt: skip
_SHAPES = (
    "1x1x1",
    "0x0x0",
    "1x-1x4",
    "99999999999x1x1",
    "x",
    "1x2",
    "1x2x3x4",
    "axbxc",
    "1x" * 3000,
    "1x٣x3",
    "1x1e3x4",
)
_NAMES = (
    "{x}z.png",
    "[/]",
    "%s%n",
    "a" * 300,
    "\u202egnp.exe",
    "x\ny.png",
    "\x1b[31mred.png",
    "-x.png",
    "ph \U0001f600.png",
    "a\udcff.png",
)
_SETS = (
    "run.steps",
    "run.steps=",
    "=1",
    "a.b.c=1",
    "run.steps=1e999",
    "run.steps=[[",
    "optimizer.x=1",
    "run.steps=" + "9" * 5000,
    "run.steps=" + "[" * 900,
    'run."a"=1',
    "\x00=1",
)


def make_words(draw: random.Random, folder: Path, checkpoint: Path, image: Path) -> list[str]:
    """The words of one command; all of them fail, or do little."""
    small, number = ["--model", str(checkpoint), "--backend", "torch"], draw.choice(_NUMBERS)
    name = draw.choice(_NAMES)
    kind = draw.randrange(9)
    if kind == 0:
        option = draw.choice(("--scale", "--tile", "--max-megapixels", "--batch", "--quality"))
        return ["upscale", str(image), "out.png", *small, f"{option}={number}"]
    if kind == 1:
        return ["degrade", str(image), "--out", "sheet.png", f"{draw.choice(('--seed', '--count'))}={number}"]
    if kind == 2:
        return [
            "bench",
            str(checkpoint),
            "--backend",
            "torch:fp32",
            f"--shape={draw.choice(_SHAPES)}",
            "--seconds",
            draw.choice(("0", "-1", "nan", "1e9", "x")),
        ]
    if kind == 3:
        return [
            "export",
            "missing.pth",
            "--profile",
            f"p={draw.choice(_SHAPES)},{draw.choice(_SHAPES)},{draw.choice(_SHAPES)}",
        ]
    if kind == 4:
        return ["train", "demo", "--data", "missing", "--set", draw.choice(_SETS)]
    if kind == 5:
        return ["interpolate", str(checkpoint), str(checkpoint), f"--alpha={number}", "--out", "mixed.safetensors"]
    if kind == 6:
        source = folder / "in"
        source.mkdir()
        try:
            (source / name).write_bytes(image.read_bytes())
        except (OSError, ValueError):
            (source / "a.png").write_bytes(image.read_bytes())
        return ["upscale", "in", draw.choice(("out", "D{x}z", "[/]")), *small]
    if kind == 7:
        return [draw.choice(("info", "verify", "upscale", "evaluate")), name.replace("\x00", "")]
    return draw.choices(
        ("info", "verify", "--json", "-x", "--backend", "openvno", "--out", name, number), k=draw.randrange(1, 5)
    )
