"""Damaged recipes, deployment specs, bundles, runs and folder records."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tomllib
from pathlib import Path

from tests.fuzz.mutate import damage_bytes, damage_json, write_json

_TOML_VALUES = (
    "0", "-1", "1e999", "inf", "nan", "true", '""', '"../../x"', "[]", "{}", "[[1, 2], 3]", "9" * 400,
    "1979-05-27T07:32:00Z",
    '"\\u0000"', '"' + "x" * 3000 + '"', "[" * 500 + "]" * 500, "1_000_000_000_000", "0x7fffffffffffffff",
)  # fmt: skip


def damage_toml(draw: random.Random, text: str) -> bytes:
    """A TOML document with values, keys or bytes changed."""
    lines = text.splitlines()
    for _ in range(draw.choice((1, 1, 2, 4))):
        places = [at for at, line in enumerate(lines) if "=" in line and not line.startswith("#")]
        what = draw.randrange(5)
        if what == 0 or not places:
            lines.insert(
                draw.randrange(len(lines) + 1),
                draw.choice(("[run]", "[a.b.c]", "x = 1", "[[data]]", '"" = 2', "a." * 400 + "b = 1")),
            )
            continue
        at = draw.choice(places)
        key, _, value = lines[at].partition("=")
        if what == 1:
            del lines[at]
        elif what == 2:
            lines[at] = f"{key.strip()}x = {value}"
        elif what == 3:
            lines.append(lines[at])
        else:
            lines[at] = f"{key}= {draw.choice(_TOML_VALUES)}"
    content = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    return damage_bytes(draw, content) if draw.random() < 0.1 else content


def damage_bundle(draw: random.Random, bundle: Path, folder: Path) -> str:
    """Copy a bundle and damage what it says of itself, its hashes entered anew as a careful forger would.

    Returns:
        What was damaged.
    """
    shutil.copytree(bundle, folder)
    documents = sorted(path for path in folder.rglob("*.json"))
    path = draw.choice(documents)
    document = json.loads(path.read_bytes())
    path.write_bytes(write_json(draw, damage_json(draw, document)))
    if draw.random() < 0.2:
        victim = draw.choice(sorted(one for one in folder.rglob("*") if one.is_file() and one.suffix != ".json"))
        victim.write_bytes(damage_bytes(draw, victim.read_bytes(), head=2000))
    if draw.random() < 0.7:
        _enter_hashes(folder)
    return path.name


def _enter_hashes(folder: Path) -> None:
    path = folder / "bundle.json"
    try:
        manifest = json.loads(path.read_bytes())
        records = [manifest["reference"], *manifest["graphs"]]
        for record in records:
            if (folder / record["file"]).is_file():  # and no /dev/zero
                record["sha256"] = hashlib.sha256((folder / record["file"]).read_bytes()).hexdigest()
        path.write_text(json.dumps(manifest))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, AttributeError):
        return  # damaged beyond that


def list_documents(folder: Path) -> list[tuple[str, str]]:
    """Every TOML file of a folder: name and text."""
    found = [(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))]
    for name, text in found:
        tomllib.loads(text)  # a sound one to start from
        assert name
    return found
