"""Scripts of `train` and `benchmarks` as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def load_script() -> Iterator[Callable[[str], ModuleType]]:
    """Loads a script, as in `benchmarks/video.py`; it and what it imports of its folder are forgotten afterwards."""
    folders = set()
    with pytest.MonkeyPatch.context() as patch:

        def load(place: str) -> ModuleType:
            path = ROOT / place
            folders.add(path.parent)
            patch.syspath_prepend(path.parent)
            location = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(location)
            sys.modules[path.stem] = module  # dataclasses look their module up
            location.loader.exec_module(module)
            return module

        yield load
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent in folders:
            del sys.modules[name]
