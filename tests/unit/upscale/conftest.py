"""A little sound network, which tests of faults and of batches spoil."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sr_deploy.runners.protocol import Runner


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory, write_gentle_network: Callable[[Path, int, int], Path]) -> Path:
    return write_gentle_network(tmp_path_factory.mktemp("little") / "net.safetensors", 6, 2)


@pytest.fixture(scope="session")
def sound(path: Path) -> Iterator[Runner]:
    from sr_deploy.runners import open_runner

    with open_runner(path, "torch:fp32", device="cpu") as runner:
        yield runner
