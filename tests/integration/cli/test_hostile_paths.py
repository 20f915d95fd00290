"""Paths that no file system takes, and what is not a plain file: one line, and nothing hangs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.cli import main

LONG = "y" * 300
DEEP = "y/" * 3000
READ = {
    "info": ["info", "{}"],
    "export": ["export", "{}", "--backend", "none"],
    "build": ["build", "{}"],
    "verify": ["verify", "{}"],
    "bench": ["bench", "{}"],
    "bench --compare": ["bench", "--compare", "{}", "{}"],
    "upscale": ["upscale", "{}", "out.png"],
    "upscale a video": ["upscale", "{}.mkv", "out.mkv"],
    "upscale --model": ["upscale", "in.png", "out.png", "--model", "{}"],
    "upscale --stream": ["upscale", "{}.png", "out.png", "--stream"],
    "evaluate": ["evaluate", "{}", "--hr", "{}"],
    "interpolate": ["interpolate", "{}", "{}", "--alpha", "0.5"],
    "degrade": ["degrade", "{}"],
    "degrade --recipe": ["degrade", "in.png", "--recipe", "{}.toml"],
    "train --data": ["train", "--data", "{}", "--set", "data.validation_folder='.'"],
    "train --from": ["train", "--from", "{}"],
    "train a recipe": ["train", "{}.toml"],
    "train --resume": ["train", "--resume", "--out", "{}"],
    "export --spec": ["export", "net.safetensors", "--spec", "{}.toml"],
}
WRITTEN = {
    "upscale": ["upscale", "in.png", "{}.png", "--model", "net.safetensors", "--backend", "torch"],
    "upscale a folder": ["upscale", ".", "{}", "--model", "net.safetensors", "--backend", "torch"],
    "interpolate": ["interpolate", "net.safetensors", "net.safetensors", "--alpha", "0.5", "--out", "{}.safetensors"],
    "degrade": ["degrade", "in.png", "--count", "1", "--out", "{}.png"],
    "export": ["export", "net.safetensors", "--backend", "none", "--out", "{}"],
    "train": ["train", "--out", "{}"],
}


@pytest.fixture
def here(tmp_path, monkeypatch, write_gentle_network):
    """A folder with a network and a picture, which commands run in."""
    from sr_deploy.imaging.codec import write_image

    write_gentle_network(tmp_path / "net.safetensors", 4, 1)
    write_image(tmp_path / "in.png", np.full((20, 20, 3), 90, np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_one_line(capsys, command):
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, (command, error)
    assert "internal" not in lines[0], lines[0]
    assert len(lines[0]) < 2100


@pytest.mark.parametrize("path", [LONG, DEEP], ids=["long", "deep"])
@pytest.mark.parametrize("command", READ)
def test_names_to_read_that_are_too_long(here, capsys, command, path):
    assert main([word.format(path) for word in READ[command]]) == 1
    assert_one_line(capsys, command)


@pytest.mark.parametrize("command", WRITTEN)
def test_names_to_write_that_are_too_long(here, capsys, command):
    before = sorted(here.iterdir())
    assert main([word.format(LONG) for word in WRITTEN[command]]) == 1
    assert_one_line(capsys, command)
    assert sorted(here.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("command", READ)
def test_pipes_and_devices_are_not_read(here, capsys, command):
    """A pipe without a writer would be waited for, and a device of zeros read, without end."""
    for suffix in ("", ".mkv", ".png", ".toml"):
        os.mkfifo(here / f"pipe{suffix}")
        (here / f"zeros{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        assert main([word.format(name) for word in READ[command]]) == 1
        assert_one_line(capsys, command)
    assert not Path("out.png").exists()
