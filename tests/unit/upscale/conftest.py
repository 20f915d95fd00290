"""A little sound network, which tests of faults and of batches spoil, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.runners.protocol import Runner
from sr_deploy.upscale.image import Upscaler
from tests.unit.upscale.folders import NearestRunner


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory, write_gentle_network: Callable[[Path, int, int], Path]) -> Path:
    return write_gentle_network(tmp_path_factory.mktemp("little") / "net.safetensors", 6, 2)


@pytest.fixture(scope="session")
def sound(path: Path) -> Iterator[Runner]:
    from sr_deploy.runners import open_runner

    with open_runner(path, "torch:fp32", device="cpu") as runner:
        yield runner


@pytest.fixture
def runner(tmp_path: Path) -> NearestRunner:
    (tmp_path / "network").write_text("weights")
    return NearestRunner(tmp_path / "network")


@pytest.fixture
def upscaler(runner: NearestRunner) -> Iterator[Upscaler]:
    with Upscaler(runner, halo=0) as upscaler:
        yield upscaler


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return np.ascontiguousarray(read_image(bundled_photographs()["chelsea"])[60:90, 100:141])


@pytest.fixture
def source(tmp_path: Path, photograph: NDArray[np.uint8]) -> Path:
    folder = tmp_path / "in"
    for number, name in enumerate(("a.png", "b.jpg", "deep/er/c.tif", "deep/d.webp")):
        write_image(folder / name, np.roll(photograph, 5 * number, axis=1))
    return folder
