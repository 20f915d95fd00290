"""A little network for several files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory, write_gentle_network: Callable[[Path, int, int], Path]) -> Path:
    return write_gentle_network(tmp_path_factory.mktemp("gpu") / "net.safetensors", 16, 2)
