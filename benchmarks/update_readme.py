"""Run every command that the README shows and put its real output there.

    python benchmarks/update_readme.py README.md

The commands run in their order in an empty folder that holds one photograph, `photo.jpg` (scikit-image's `coffee`,
reduced to 300x200), so the figures in the README are those of one run on one machine, which it names. The table of the
first screen is not theirs: `run_all.py` writes it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.resize import downscale_bicubic

_BLOCK = re.compile(r"```console(?: (\d+))?\n(.*?)```", re.DOTALL)
"""With the number of lines that are shown of it before the last one, where it is long."""


def read_commands(page: str) -> list[str]:
    """The `$ ` commands of the console blocks of a Markdown page, in order."""
    return [command for _, block in _BLOCK.findall(page) for command in re.findall(r"^\$ (.+)$", block, re.MULTILINE)]


def write_photograph(folder: Path) -> Path:
    """Put the photograph that the README speaks of into `folder`."""
    coffee = read_image(bundled_photographs()["coffee"])
    path = folder / "photo.jpg"
    write_image(path, downscale_bicubic(coffee, 2))
    return path


def run_command(command: str, folder: Path) -> str:
    """Run one command as a user would and return what it printed on stdout."""
    print(f"$ {command}", file=sys.stderr)
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def fill_blocks(page: str, folder: Path) -> str:
    """The page with each console block's output replaced by what its commands print in `folder`."""

    def fill_block(block: re.Match[str]) -> str:
        shown, content = block.groups()
        commands = re.findall(r"^\$ (.+)$", content, re.MULTILINE)
        lines = "\n\n".join(f"$ {command}\n{run_command(command, folder)}".rstrip() for command in commands).split("\n")
        if shown is not None and len(lines) > int(shown) + 1:
            lines[int(shown) : -1] = ["..."]
        return "\n".join([f"```console{f' {shown}' if shown else ''}", *lines, "```"])

    return _BLOCK.sub(fill_block, page)


def main() -> None:
    """Rewrite the page named on the command line."""
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        write_photograph(Path(name))
        page = fill_blocks(path.read_text(encoding="utf-8"), Path(name))
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
