"""A little sound network, which tests of faults and of batches spoil."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sr_deploy.runners.protocol import Runner


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from sr_deploy.arch.registry import build_network
    from sr_deploy.arch.spec import ArchSpec
    from sr_deploy.arch.weights import save_generator

    torch.manual_seed(0)
    spec = ArchSpec(architecture="compact", scale=2, features=6, blocks=2)
    path = tmp_path_factory.mktemp("little") / "net.safetensors"
    save_generator(path, build_network(spec).state_dict(), spec)
    return path


@pytest.fixture(scope="session")
def sound(path: Path) -> Iterator[Runner]:
    from sr_deploy.runners import open_runner

    with open_runner(path, "torch:fp32", device="cpu") as runner:
        yield runner
