"""Run every command that the README shows and put its real output there.

    python benchmarks/update_readme.py README.md

The commands run in their order in an empty folder that holds one photograph, `photo.jpg` (scikit-image's `coffee`,
reduced to 300x200), so the figures in the README are those of one run on one machine, which `sr-deploy bench` names.
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

_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def read_commands(page: str) -> list[list[str]]:
    """The `$ ` commands of each console block of a Markdown page, in order."""
    return [re.findall(r"^\$ (.+)$", block, re.MULTILINE) for block in _BLOCK.findall(page)]


def write_photograph(folder: Path) -> Path:
    """Put the photograph that the README speaks of into `folder`."""
    coffee = read_image(bundled_photographs()["coffee"])
    path = folder / "photo.jpg"
    write_image(path, downscale_bicubic(coffee, 2))
    return path


def run_command(command: str, folder: Path) -> str:
    """Run one command as a user would and return what it printed on stdout."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def fill_page(page: str, folder: Path) -> str:
    """The page with each console block's output replaced by what its commands print in `folder`."""

    def fill_block(block: re.Match[str]) -> str:
        parts = []
        for command in re.findall(r"^\$ (.+)$", block.group(1), re.MULTILINE):
            print(f"$ {command}", file=sys.stderr)
            parts.append(f"$ {command}\n{run_command(command, folder)}".rstrip())
        return "```console\n" + "\n\n".join(parts) + "\n```"

    return _BLOCK.sub(fill_block, page)


def main() -> None:
    """Rewrite the page named on the command line."""
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        write_photograph(Path(name))
        path.write_text(fill_page(path.read_text(encoding="utf-8"), Path(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
