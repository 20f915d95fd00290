"""Small networks and their graphs: exported once for all tests of the session."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sr_deploy.arch.registry import build_network, input_multiple
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.bundle import (
    Bundle,
    GraphRecord,
    Manifest,
    SourceRecord,
    creating_bundle,
    open_bundle,
    parse_profile,
    record_file,
    utc_now,
)
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.files import replacing_file

_SOURCE = "5" * 64

EXPORTED_SPECS = {
    "compact-x4": ArchSpec(architecture="compact", scale=4, features=8, blocks=2),
    "compact-x2-gray": ArchSpec(architecture="compact", scale=2, channels=1, features=8, blocks=1),
    "compact-x1": ArchSpec(architecture="compact", scale=1, features=8, blocks=1),
    "rrdbnet-x4": ArchSpec(architecture="rrdbnet", scale=4, features=8, blocks=1, growth=4),
    "rrdbnet-x2": ArchSpec(architecture="rrdbnet", scale=2, features=8, blocks=1, growth=4),
    "rrdbnet-x1-gray": ArchSpec(architecture="rrdbnet", scale=1, channels=1, features=8, blocks=1, growth=4),
    "srresnet-x4": ArchSpec(architecture="srresnet", scale=4, features=8, blocks=2),
    "srresnet-x2-gray": ArchSpec(architecture="srresnet", scale=2, channels=1, features=8, blocks=1),
    "msrresnet-x4": ArchSpec(architecture="msrresnet", scale=4, features=8, blocks=2),
    "msrresnet-x2": ArchSpec(architecture="msrresnet", scale=2, features=8, blocks=1),
    "span-x2": ArchSpec(architecture="span", scale=2, features=8, blocks=2),
    "realplksr-x4": ArchSpec(
        architecture="realplksr", scale=4, features=8, blocks=2, kernel=5, partial=2, norm="layer"
    ),
    "realplksr-x3": ArchSpec(
        architecture="realplksr", scale=3, features=8, blocks=1, kernel=5, partial=2, dysample=True
    ),
}


@dataclass(frozen=True)
class Exported:
    """A network and the graph made of it."""

    spec: ArchSpec
    network: nn.Module
    path: Path


def _make_network(spec: ArchSpec) -> nn.Module:
    """A network with lively weights, biases and statistics: fresh ones hide mistakes behind zeros."""
    torch.manual_seed(7)
    network = build_network(spec).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("bias", "running_mean")):
            tensor.uniform_(-0.1, 0.1)
    return network


def _run_graph(path: Path, lr: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (sr,) = session.run(["sr"], {"lr": lr})
    return sr


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """Gives the export of one of `EXPORTED_SPECS` by name, made at the first request of any of the processes."""
    made: dict[str, Exported] = {}
    side_by_side = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent / "graphs" if side_by_side else tmp_path_factory.mktemp("graphs")
    folder.mkdir(exist_ok=True)

    def get(name: str) -> Exported:
        if name not in made:
            spec, path = EXPORTED_SPECS[name], folder / f"{name}.onnx"
            network = _make_network(spec)
            if not path.exists():
                with replacing_file(path) as temporary:
                    export_network_to_onnx(network, spec, temporary, _SOURCE)
            made[name] = Exported(spec, network, path)
        return made[name]

    return get


@pytest.fixture(scope="session")
def make_network():
    """Gives a network of a spec, with lively weights."""
    return _make_network


@pytest.fixture(scope="session")
def run_graph():
    """Gives `sr` of a graph for `lr`, by ONNX Runtime."""
    return _run_graph


@pytest.fixture(params=list(EXPORTED_SPECS))
def each_exported(request: pytest.FixtureRequest, exported) -> Exported:
    """Every architecture, at each kind of scale, gray and RGB."""
    return exported(request.param)


@pytest.fixture(scope="session")
def make_bundle(exported):
    """Gives a bundle of one of `EXPORTED_SPECS`; `graph` puts another FP32 graph into it, recorded as its own."""

    def make(name: str, folder: Path, *, fp16: bool = False, graph: Path | None = None) -> Bundle:
        made = exported(name)
        path = folder / name
        with creating_bundle(path) as inside:
            save_generator(inside / "generator.safetensors", made.network.state_dict(), made.spec)
            shutil.copyfile(graph or made.path, inside / "model.fp32.onnx")
            if fp16:
                convert_graph_to_fp16(inside / "model.fp32.onnx", inside / "model.fp16.onnx")
            records = [record_file(inside, file.name) for file in sorted(inside.glob("*.onnx"), reverse=True)]
            manifest = Manifest(
                name=name,
                created_at=utc_now(),
                arch=made.spec,
                input_multiple=input_multiple(made.spec),
                source=SourceRecord(file="source.pth", sha256=_SOURCE, layout=made.spec.architecture),
                reference=record_file(inside, "generator.safetensors"),
                graphs=tuple(
                    GraphRecord(file=one.file, sha256=one.sha256, precision=one.file.split(".")[1]) for one in records
                ),
                profiles=(parse_profile("tile=1x8x8,1x16x16,1x32x32"),),
                tools={"torch": torch.__version__},
            )
            (inside / "bundle.json").write_text(manifest.model_dump_json())
        return open_bundle(path)

    return make
