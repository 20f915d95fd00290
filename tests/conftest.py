"""What all tests share: no test reads or writes the user's own cache, and a network that no guard objects to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests of a process and what they start: `--backend auto` measures a network once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SR_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def write_gentle_network() -> Callable[[Path, int, int], Path]:
    """Writes a compact x2 network near bicubic, so that no guard objects; takes the file, features and blocks."""
    import torch

    from sr_deploy.arch.registry import build_network
    from sr_deploy.arch.spec import ArchSpec
    from sr_deploy.arch.weights import save_generator

    def write(path: Path, features: int = 24, blocks: int = 4) -> Path:
        spec = ArchSpec(architecture="compact", scale=2, features=features, blocks=blocks)
        torch.manual_seed(0)
        network = build_network(spec)
        with torch.no_grad():
            for weights in network.parameters():
                weights.mul_(0.5)
        save_generator(path, network.state_dict(), spec)
        return path

    return write
