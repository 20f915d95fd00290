"""What another package brings, each in one file, goes through the whole chain by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sr_deploy.arch import registry
from sr_deploy.cli import main
from sr_deploy.imaging.codec import read_image

NETWORK = '''
from pydantic import ConfigDict, Field
from torch import nn
from torch.nn import functional as F

from sr_deploy.arch.registry import Architecture, Layout, find_shape, keep_names
from sr_deploy.arch.spec import ArchSpec


class TwoConvSpec(ArchSpec):
    """Options of this architecture."""

    model_config = ConfigDict(extra="forbid")

    width: int = Field(ge=1, le=64)
    """Channels between its two convolutions."""


class TwoConv(nn.Module):
    """Two convolutions and a pixel shuffle, added to the nearest pixel."""

    def __init__(self, spec):
        super().__init__()
        self.scale = spec.scale
        self.inner = nn.Conv2d(spec.channels, spec.width, 5, padding=2)
        self.outer = nn.Conv2d(spec.width, spec.channels * spec.scale**2, 3, padding=1)

    def forward(self, lr):
        detail = F.pixel_shuffle(self.outer(F.relu(self.inner(lr))), self.scale)
        return detail + F.interpolate(lr, scale_factor=float(self.scale), mode="nearest")


def infer(shapes):
    width, channels = find_shape(shapes, "inner.weight", 4)[:2]
    scale = round((find_shape(shapes, "outer.weight", 4)[0] / channels) ** 0.5)
    return TwoConvSpec(architecture="twoconv", scale=scale, channels=channels, width=width)


ARCHITECTURE = Architecture(
    title="Two convolutions",
    spec=TwoConvSpec,
    build=TwoConv,
    infer=infer,
    layouts=(Layout("twoconv", "inner.weight", lambda shapes: "inner.weight" in shapes, keep_names),),
)
'''
RECIPE = """
name = "toy"
scale = 2

[network]
architecture = "twoconv"
width = 12

[data]
patch_size = 16
batch = 2

[optimizer]
learning_rate = 1e-3

[run]
steps = 6
"""


def install(folder: Path, group: str, name: str, text: str) -> None:
    """Put a distribution into `folder` that brings one module and names it in an entry point."""
    (folder / f"{name}_of_another_package.py").write_text(text)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}_of_another_package\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder


def test_an_architecture_is_one_file(site, pictures, tmp_path, monkeypatch, capsys):
    install(site, "sr_deploy.architectures", "twoconv", NETWORK)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(RECIPE)
    registry._find_modules.cache_clear()
    try:
        train = ["train", "toy.toml", "--data", str(pictures), "--set", f"data.validation_folder={pictures}"]
        assert main([*train, "--set", "network.witdh=3"]) == 1
        assert "unknown key 'network.witdh' (did you mean 'width'?)" in capsys.readouterr().err
        assert main(train) == 0
        capsys.readouterr()
        assert main(["info", "runs/toy", "--json"]) == 0
        network = json.loads(capsys.readouterr().out)
        assert network["arch"] == {"architecture": "twoconv", "scale": 2, "channels": 3, "width": 12}
        assert main(["export", "runs/toy", "--fp16", "--backend", "none"]) == 0
        assert main(["verify", "deployments/toy"]) == 0
        picture = next(iter(sorted(pictures.glob("*.png"))))
        assert main(["upscale", str(picture), "out.png", "--model", "deployments/toy"]) == 0
        assert read_image(tmp_path / "out.png").shape == (144, 176, 3)
    finally:
        registry._find_modules.cache_clear()
        registry.get_architecture.cache_clear()
