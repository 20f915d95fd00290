"""A little network for several files."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    import torch

    from sr_deploy.arch.registry import build_network
    from sr_deploy.arch.spec import ArchSpec
    from sr_deploy.arch.weights import save_generator

    torch.manual_seed(0)
    spec = ArchSpec(architecture="compact", scale=2, features=16, blocks=2)
    path = tmp_path_factory.mktemp("gpu") / "net.safetensors"
    save_generator(path, build_network(spec).state_dict(), spec)
    return path
