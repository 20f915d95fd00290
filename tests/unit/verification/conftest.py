"""Bundles of two small networks as `export` makes them, and a forger who knows their hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.bundle import Bundle, open_bundle, parse_profile
from sr_deploy.cli import main
from sr_deploy.deploy import export_bundle
from sr_deploy.export.spec import load_spec
from sr_deploy.files import sha256_of

SPECS = {
    "compact": ArchSpec(architecture="compact", scale=2, features=24, blocks=4),
    "rrdb": ArchSpec(architecture="rrdbnet", scale=4, features=16, blocks=1, growth=8),
}
PROFILE = parse_profile("tile=1x8x8,1x24x24,1x32x32")
INT8 = {
    "max_drop_db": 1.0,
    "max_pixel_error": 1.0,
    "crops": 8,
    "search_crops": 4,
    "gate_crops": 6,
    "curve_points": 3,
    "learn_steps": 6,
    "learn_size": 16,
}


@dataclass(frozen=True)
class Forgery:
    """A bundle's copy, whose manifest records whatever is put into it."""

    path: Path

    def change_graph(self, file: str, change: Callable[[onnx.ModelProto], None]) -> None:
        model = onnx.load(self.path / file)
        change(model)
        onnx.save(model, self.path / file)
        self.enter_hashes()

    def change_json(self, file: str, change: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads((self.path / file).read_text())
        change(document)
        (self.path / file).write_text(json.dumps(document))
        self.enter_hashes()

    def enter_hashes(self) -> None:
        manifest = json.loads((self.path / "bundle.json").read_text())
        records = [manifest["reference"], *manifest["graphs"]]
        records += [manifest["int8"]["report"]] if manifest["int8"] else []
        for record in records:
            record["sha256"] = sha256_of(self.path / record["file"])
        (self.path / "bundle.json").write_text(json.dumps(manifest))

    def verify(self, capsys: pytest.CaptureFixture[str], backend: str) -> tuple[int, dict[str, list[str]]]:
        """Exit code of `verify`, and what each check found, by `file (kind)`."""
        code = main(["verify", str(self.path), "--backend", backend, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert "checks" in document, document
        found = {f"{check['file']} ({check['kind']})": check["findings"] for check in document["checks"]}
        return code, {name: findings for name, findings in found.items() if findings}


@pytest.fixture(scope="session")
def write_lively_network() -> Callable[[Path, ArchSpec], Path]:
    """Writes a network with lively biases whose outputs stay near [0, 1]."""

    def write(path: Path, spec: ArchSpec) -> Path:
        torch.manual_seed(3)
        network = build_network(spec)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if name.endswith("bias"):
                    tensor.uniform_(-0.1, 0.1)
                elif spec.architecture == "compact":
                    tensor.mul_(0.5)
        save_generator(path, network.state_dict(), spec)
        return path

    return write


@pytest.fixture(scope="session")
def export_sound(
    tmp_path_factory: pytest.TempPathFactory, write_lively_network: Callable[[Path, ArchSpec], Path]
) -> Callable[..., Bundle]:
    """Gives what `export` makes of one of `SPECS`, made at the first request; options as `ExportSpec.with_options`."""
    made: dict[tuple[object, ...], Bundle] = {}

    def export(name: str, **options: Any) -> Bundle:
        key = (name, *sorted((option, str(value)) for option, value in options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("sound")
            weights = write_lively_network(folder / "net.safetensors", options.pop("arch", None) or SPECS[name])
            backend = options.pop("backend", "none")
            spec = load_spec().with_options(profiles=(PROFILE,), int8_changes=INT8, **options)
            result = export_bundle(weights, spec, folder / name, backend)
            assert result.passed, result.verification.failures
            made[key] = result.bundle
        return made[key]

    return export


@pytest.fixture
def forge(export_sound: Callable[..., Bundle], tmp_path: Path) -> Callable[..., Forgery]:
    """Gives a copy of a sound bundle to be spoilt; arguments as `export_sound`."""

    def copy(name: str, **options: Any) -> Forgery:
        sound = export_sound(name, **options)
        shutil.copytree(sound.path, tmp_path / name, ignore=shutil.ignore_patterns("certificate.*"))
        return Forgery(open_bundle(tmp_path / name).path)

    return copy


@pytest.fixture(scope="session")
def surgery() -> type[Surgery]:
    """Cuts and stitches for graphs."""
    return Surgery


class Surgery:
    """What faults are made of."""

    @staticmethod
    def find(model: onnx.ModelProto, op: str, number: int = 0) -> onnx.NodeProto:
        return [node for node in model.graph.node if node.op_type == op][number]

    @staticmethod
    def change_tensor(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        tensor = next(one for one in model.graph.initializer if one.name == name)
        values = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))

    @staticmethod
    def insert_behind(model: onnx.ModelProto, node: onnx.NodeProto, *operations: tuple[str, dict[str, Any]]) -> None:
        """Put a chain of one-input nodes between the result of `node` and whoever reads it."""
        place = list(model.graph.node).index(node) + 1
        result = node.output[0]
        name = result
        made = []
        for number, (op, attributes) in enumerate(operations):
            made.append(helper.make_node(op, [name], [f"{result}.x{number}"], f"{result}.x{number}", **attributes))
            name = made[-1].output[0]
        for other in model.graph.node:
            other.input[:] = [name if one == result else one for one in other.input]
        for one in reversed(made):
            model.graph.node.insert(place, one)

    @staticmethod
    def spoil_output(model: onnx.ModelProto, nodes: list[onnx.NodeProto], spoilt: str) -> None:
        """Let the output be `spoilt`, which `nodes` make of the tensor `sound` (the old output) and of `lr`."""
        last = next(node for node in model.graph.node if "sr" in node.output)
        last.output[:] = ["sound" if name == "sr" else name for name in last.output]
        for node in nodes:
            node.output[:] = ["sr" if name == spoilt else name for name in node.output]
        model.graph.node.extend(nodes)

    @staticmethod
    def add_constant(model: onnx.ModelProto, name: str, value: object) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name
