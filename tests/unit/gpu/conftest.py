"""A simulated GPU, an SDK for it, and bundles with engines for both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.backends.registry import get_builder
from sr_deploy.backends.tensorrt.sdk import take_errors
from sr_deploy.bundle import Bundle, EngineRecord, FileRecord
from sr_deploy.bundle.records import engine_key
from sr_deploy.bundle.trust import register_engine
from sr_deploy.gpus import Gpu as Card
from tests.unit.gpu import stub_sdk
from tests.unit.gpu.streams import Gpu
from tests.unit.gpu.stub_sdk import Stub
from tests.unit.gpu.tensors import torch_cuda

CARDS = (Card("NVIDIA GeForce RTX 4090", "sm89", "GPU-1"), Card("NVIDIA H100 80GB HBM3", "sm90", "GPU-2"))
MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Two cards, which torch and the driver see; at the end nothing may have been found."""
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: CARDS)
    with torch_cuda(Gpu(len(CARDS))) as made:
        yield made
        made.finish()


@pytest.fixture
def install_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Installs a stub of the backend's SDK as a package that Python finds; gives its module."""

    def install(stub: Stub, backend: str = "tensorrt", version: str = "11.4.0.106") -> Any:
        name = MODULES[backend]
        stub_sdk.INSTALLED[name] = stub.names(rtx=backend == "tensorrt-rtx")
        package = tmp_path / "site" / name
        package.mkdir(parents=True)
        text = f"from tests.unit.gpu.stub_sdk import INSTALLED\n__version__ = {version!r}\n"
        (package / "__init__.py").write_text(text + f"globals().update(INSTALLED[{name!r}])\n")
        monkeypatch.syspath_prepend(package.parent)
        for module in (name, "polygraphy.config"):  # which remembers the SDK of a test before
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "")
        if backend == "tensorrt-rtx":  # the distribution that is installed has a version of its own
            monkeypatch.setattr("sr_deploy.deps.importlib.metadata.version", lambda _: version)
        take_errors()
        return get_builder(backend).select_sdk()

    yield install
    for module in MODULES.values():
        sys.modules.pop(module, None)


def add_engine(bundle: Bundle, backend: str = "tensorrt", precision: Any = "fp32", **changes: Any) -> EngineRecord:
    """Put an engine into a bundle that was built here, as far as the registry knows."""
    graph = bundle.manifest.graph(precision)
    assert graph is not None
    built = {
        "graph_sha256": graph.sha256,
        "backend": backend,
        "backend_version": "11.4.0.106",
        "target": CARDS[0].name,
        "profiles": bundle.manifest.profiles,
        "flags": {},
    } | changes
    key = engine_key(**built)
    content = f"{precision} {key}".encode()
    record = EngineRecord.model_validate(
        {
            **built,
            "key": key,
            "precision": precision,
            "engine": FileRecord(file=f"engines/{key}.engine", sha256=sha256(content).hexdigest()),
            "layer_precisions": {},
            "inspected": "",
            "build_seconds": 1.0,
            "built_at": "2026-01-01T00:00:00Z",
        }
    )
    with bundle.writing():
        (bundle.path / "engines").mkdir(exist_ok=True)
        bundle.add_engine(record, content)
    register_engine(record)
    return record
