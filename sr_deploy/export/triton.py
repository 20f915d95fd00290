"""A bundle as models of NVIDIA's Triton Inference Server: one folder each, with `config.pbtxt` and version 1.

The fields are those of Triton's published schema, `model_config.proto`; a test parses every file with it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sr_deploy.backends import Precision
from sr_deploy.bundle import Bundle, EngineRecord, Profile, Shape
from sr_deploy.errors import OutputError
from sr_deploy.files import replacing_folder, write_text
from sr_deploy.graph.ends import Dtype
from sr_deploy.graph.read import GraphInfo, read_graph

QUEUE_DELAY_US = 2000
"""How long a request may wait for others of its shape, in microseconds: a tenth of a frame at 50 frames a second."""

_TYPES: dict[Dtype, str] = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
}
_ANY = -1


@dataclass(frozen=True)
class TritonModel:
    """A model in a Triton repository."""

    name: str
    """What clients ask for: the bundle's name, the precision and what runs it, as in `net-fp16-onnx`."""
    backend: str
    """Triton's backend: `tensorrt` or `onnxruntime`."""
    path: Path
    """Its folder."""


class _Word(str):
    """A value that the text format takes without quotes: a name of an enumeration."""

    __slots__ = ()


_Value: TypeAlias = "str | int | bool | _Word | Mapping[str, _Value] | Sequence[_Value]"


def write_triton_models(bundle: Bundle, repository: Path) -> tuple[TritonModel, ...]:
    """Write a model for each graph (ONNX Runtime) and each engine of the data-centre SDK (TensorRT) of a bundle.

    Engines of TensorRT-RTX are left out: Triton's TensorRT backend opens those of the data-centre SDK alone. Other
    models in the repository stay as they are; one of the same name is replaced, if it is one of Triton's.

    Args:
        bundle: the deployment.
        repository: Triton's folder of models; made if it is not there.

    Raises:
        OutputError: it cannot be written, or something that is no Triton model stands in the way.
    """
    models = []
    infos: dict[Precision, GraphInfo] = {}
    for graph in bundle.manifest.graphs:
        info = infos[graph.precision] = read_graph(bundle.path / graph.file)
        config = _configure(bundle, info, f"{graph.precision}-onnx", bundle.manifest.profiles)
        models.append(_write_model(repository, config, bundle.path / graph.file, "model.onnx"))
    for engine in _newest_engines(bundle):
        config = _configure(bundle, infos[engine.precision], f"{engine.precision}-tensorrt", engine.profiles)
        models.append(_write_model(repository, config, bundle.path / engine.engine.file, "model.plan"))
    return tuple(models)


def _newest_engines(bundle: Bundle) -> list[EngineRecord]:
    """Of each precision the engine that was built last from the bundle's present graph."""
    newest: dict[Precision, EngineRecord] = {}
    hashes = {graph.precision: graph.sha256 for graph in bundle.manifest.graphs}
    for record in sorted(bundle.engines(), key=lambda one: one.built_at):
        complete = record.flags.get("strip_weights") != "on"  # Triton puts no weights back
        if record.backend == "tensorrt" and complete and hashes.get(record.precision) == record.graph_sha256:
            newest[record.precision] = record
    return list(newest.values())


def _configure(bundle: Bundle, info: GraphInfo, suffix: str, profiles: Sequence[Profile]) -> dict[str, _Value]:
    """The fields of `config.pbtxt`."""
    plan = suffix.endswith("tensorrt")
    batch = max(profile.max.n for profile in profiles)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{bundle.manifest.name}-{suffix}")
    config: dict[str, _Value] = {
        "name": name,
        "backend": "tensorrt" if plan else "onnxruntime",
        "max_batch_size": batch,
        "input": [_describe_end(info.input_name, info.input_dtype, info.channels)],
        "output": [_describe_end(info.output_name, info.output_dtype, info.channels)],
        "instance_group": [_describe_instances(plan, len(profiles))],
        "model_warmup": [_describe_warmup(info, profile) for profile in profiles],
    }
    if batch > 1:
        preferred = sorted({profile.opt.n for profile in profiles} - {1}) or [batch]
        config["dynamic_batching"] = {
            "preferred_batch_size": preferred,
            "max_queue_delay_microseconds": QUEUE_DELAY_US,
        }
    return config


def _describe_end(name: str, dtype: Dtype, channels: int) -> dict[str, _Value]:
    return {"name": name, "data_type": _Word(_TYPES[dtype]), "dims": _list_axes(dtype, channels, _ANY, _ANY)}


def _list_axes(dtype: Dtype, channels: int, height: int, width: int) -> list[_Value]:
    """Axes but the batch, which Triton adds: whole numbers are H x W x C, others C x H x W."""
    return [height, width, channels] if dtype in ("uint8", "uint16") else [channels, height, width]


def _describe_instances(plan: bool, profiles: int) -> dict[str, _Value]:
    if not plan:
        return {"count": 1, "kind": _Word("KIND_AUTO")}  # a GPU where the server has one, or else the CPU
    # One instance with every profile: for each request Triton takes the profile that suits its shape.
    return {"count": 1, "kind": _Word("KIND_GPU"), "profile": [str(index) for index in range(profiles)]}


def _describe_warmup(info: GraphInfo, profile: Profile) -> dict[str, _Value]:
    """A request of the profile's tuned shape, run before the model counts as ready."""
    shape: Shape = profile.opt
    lr: dict[str, _Value] = {
        "data_type": _Word(_TYPES[info.input_dtype]),
        "dims": _list_axes(info.input_dtype, info.channels, shape.h, shape.w),
        "zero_data": True,
    }
    return {"name": profile.name, "batch_size": shape.n, "inputs": {"key": info.input_name, "value": lr}}


def _write_model(repository: Path, config: dict[str, _Value], source: Path, file: str) -> TritonModel:
    name = str(config["name"])
    path = repository / name
    if path.exists() and not (path / "config.pbtxt").is_file():
        raise OutputError(f"{path} is there and is no Triton model (no config.pbtxt); choose another folder")
    with replacing_folder(path) as folder:
        (folder / "1").mkdir()
        shutil.copyfile(source, folder / "1" / file)
        write_text(folder / "config.pbtxt", format_text(config))
    return TritonModel(name, str(config["backend"]), path)


def format_text(message: Mapping[str, _Value], indent: int = 0) -> str:
    """Protobuf's text format of a message: a list is a field that is repeated.

    Args:
        message: fields in the order in which they are written.
        indent: spaces before each line.
    """
    lines = []
    for name, value in message.items():
        repeated = isinstance(value, Sequence) and not isinstance(value, str)
        for one in value if repeated else (value,):  # type: ignore[union-attr]
            if isinstance(one, Mapping):
                lines.append(f"{' ' * indent}{name} {{\n{format_text(one, indent + 2)}{' ' * indent}}}\n")
            else:
                lines.append(f"{' ' * indent}{name}: {_format_scalar(one)}\n")
    return "".join(lines)


def _format_scalar(value: object) -> str:
    if isinstance(value, _Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    # Bytes as octal escapes: what protobuf's text format has for all that is not plain ASCII.
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\{byte:03o}" for byte in str(value).encode()
    )
    return f'"{escaped}"'
