"""A bundle as models of NVIDIA's Triton Inference Server: one folder each, with `config.pbtxt` and version 1.

The fields are those of Triton's published schema, `model_config.proto`; a test parses every file with it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sr_deploy.backends import Precision
from sr_deploy.backends.description import Backend
from sr_deploy.backends.registry import get_backend, get_reference
from sr_deploy.bundle import Bundle, EngineRecord, Profile
from sr_deploy.errors import OutputError
from sr_deploy.files import replacing_folder, write_text
from sr_deploy.gpus import visible_gpus
from sr_deploy.graph.io_dtype import Dtype
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
    """Triton's backend, as in `onnxruntime`."""
    path: Path


class _Word(str):
    """A value that the text format takes without quotes: a name of an enumeration."""

    __slots__ = ()


_Value: TypeAlias = "str | int | bool | _Word | Mapping[str, _Value] | Sequence[_Value]"


def write_triton_models(bundle: Bundle, repository: Path) -> tuple[TritonModel, ...]:
    """Write a model for each graph (ONNX Runtime) and each engine of the data-center SDK (TensorRT) of a bundle.

    Engines of TensorRT-RTX are left out: Triton's TensorRT backend opens those of the data-center SDK alone. Other
    models in the repository stay as they are; one of the same name is replaced, if it is one of Triton's.

    Args:
        bundle: the deployment.
        repository: Triton's folder of models; made if it is not there.

    Raises:
        OutputError: it cannot be written, or something else than a Triton model has that name.
    """
    models = []
    infos: dict[Precision, GraphInfo] = {}
    for graph in bundle.manifest.graphs:
        info = infos[graph.precision] = read_graph(bundle.path / graph.file)
        profiles = bundle.manifest.profiles
        served = _Served(
            f"{graph.precision}-onnx", get_reference("graph"), profiles, max(one.max.n for one in profiles)
        )
        config = _configure(bundle, info, served)
        models.append(_write_model(repository, config, bundle.path / graph.file, "model.onnx"))
    for engine in _newest_engines(bundle):
        for served in _part_by_batch(engine):
            config = _configure(bundle, infos[engine.precision], served)
            models.append(_write_model(repository, config, bundle.path / engine.engine.file, "model.plan"))
    return tuple(models)


def _newest_engines(bundle: Bundle) -> list[EngineRecord]:
    """Of each precision the engine that was built last from the bundle's present graph, for the GPU that is here."""
    newest: dict[Precision, EngineRecord] = {}
    hashes = {graph.precision: graph.sha256 for graph in bundle.manifest.graphs}
    here = {gpu.name for gpu in visible_gpus()}
    for record in sorted(bundle.engines(), key=lambda one: one.built_at):
        complete = record.flags.get("strip_weights") != "on"  # Triton puts no weights back
        fits = not here or record.target in here or record.flags.get("hardware_compatible") == "on"
        of_graph = hashes.get(record.precision) == record.graph_sha256
        if get_backend(record.backend).triton is not None and complete and fits and of_graph:
            newest[record.precision] = record
    return list(newest.values())


@dataclass(frozen=True)
class _Served:
    """What one model of a repository takes."""

    suffix: str
    """End of its name."""
    backend: Backend
    """Whose file it runs."""
    profiles: tuple[Profile, ...]
    """Of an engine all that there are, by their index; of a graph those of the bundle."""
    batch: int
    """Requests of one shape that may be joined."""
    used: tuple[int, ...] = ()
    """Of an engine the profiles that are used, by index."""
    spatial_dims: tuple[int, int] = (_ANY, _ANY)
    """Height and width, where they are fixed."""


def _part_by_batch(engine: EngineRecord) -> Iterator[_Served]:
    """An engine as models in which every batch that Triton may join fits a profile.

    Triton joins any requests of one shape, up to the model's greatest batch. One model takes every shape, in batches
    that all shapes have; where a profile has larger ones, a model of its own takes the shapes of that profile.
    """
    backend, profiles = get_backend(engine.backend), engine.profiles
    suffix = f"{engine.precision}-{backend.triton}"
    common = min(_find_batch(profile, profiles) for profile in profiles)
    yield _Served(suffix, backend, profiles, common, tuple(range(len(profiles))))
    for profile in profiles:
        batch = _find_batch(profile, profiles)
        if batch > common:
            used = tuple(place for place, one in enumerate(profiles) if _holds(one, profile))
            spatial_dims = (profile.max.h, profile.max.w) if profile.min[1:] == profile.max[1:] else (_ANY, _ANY)
            yield _Served(f"{suffix}-{profile.name}", backend, profiles, batch, used, spatial_dims)


def _find_batch(shapes: Profile, profiles: Sequence[Profile]) -> int:
    """The largest batch up to which each fits a profile, at all heights and widths of `shapes`; at least 1."""
    holding = [one for one in profiles if _holds(one, shapes)]
    batch = 1
    while any(one.min.n <= batch + 1 <= one.max.n for one in holding):
        batch += 1
    return batch


def _holds(profile: Profile, shapes: Profile) -> bool:
    """Whether a profile has all heights and widths of another."""
    lower = all(low <= other for low, other in zip(profile.min[1:], shapes.min[1:], strict=True))
    return lower and all(high >= other for high, other in zip(profile.max[1:], shapes.max[1:], strict=True))


def _configure(bundle: Bundle, info: GraphInfo, served: _Served) -> dict[str, _Value]:
    """The fields of `config.pbtxt`."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{bundle.manifest.name}-{served.suffix}")
    height, width = served.spatial_dims
    grown = tuple(side if side == _ANY else side * info.scale for side in served.spatial_dims)
    profiles = [served.profiles[place] for place in served.used] or served.profiles
    config: dict[str, _Value] = {
        "name": name,
        "backend": str(served.backend.triton),
        "max_batch_size": served.batch,
        "input": [_describe_tensor(info.input_name, info.input_dtype, info.channels, height, width)],
        "output": [_describe_tensor(info.output_name, info.output_dtype, info.channels, *grown)],
        "instance_group": [_describe_instances(served)],
        "model_warmup": [
            _describe_warmup(info, served, profile) for profile in profiles if profile.min.n <= served.batch
        ],
    }
    if served.batch > 1:
        preferred = sorted({profile.opt.n for profile in profiles if 1 < profile.opt.n <= served.batch})
        config["dynamic_batching"] = {
            "preferred_batch_size": preferred or [served.batch],
            "max_queue_delay_microseconds": QUEUE_DELAY_US,
        }
    stated = bundle.manifest.source.attribution.stated
    if served.used:  # memory for the profile at hand, not for the largest of all
        stated = {"execution_context_allocation_strategy": "ON_PROFILE_CHANGE", **stated}
    if stated:
        config["parameters"] = [{"key": key, "value": {"string_value": text}} for key, text in stated.items()]
    return config


def _describe_tensor(name: str, dtype: Dtype, channels: int, height: int, width: int) -> dict[str, _Value]:
    return {"name": name, "data_type": _Word(_TYPES[dtype]), "dims": _list_axes(dtype, channels, height, width)}


def _list_axes(dtype: Dtype, channels: int, height: int, width: int) -> list[_Value]:
    """Axes but the batch, which Triton adds: integers are H x W x C, others C x H x W."""
    return [height, width, channels] if dtype in ("uint8", "uint16") else [channels, height, width]


def _describe_instances(served: _Served) -> dict[str, _Value]:
    if not served.used:
        return {"count": 1, "kind": _Word("KIND_AUTO")}  # a GPU where the server has one, or else the CPU
    # One instance with these profiles: for each request Triton takes the one that suits its shape.
    return {"count": 1, "kind": _Word("KIND_GPU"), "profile": [str(place) for place in served.used]}


def _describe_warmup(info: GraphInfo, served: _Served, profile: Profile) -> dict[str, _Value]:
    """A request of the profile's tuned shape, run before the model counts as ready."""
    spatial_dims = profile.opt[1:] if served.spatial_dims == (_ANY, _ANY) else served.spatial_dims
    lr: dict[str, _Value] = {
        "data_type": _Word(_TYPES[info.input_dtype]),
        "dims": _list_axes(info.input_dtype, info.channels, *spatial_dims),
        "zero_data": True,
    }
    batch = min(profile.opt.n, served.batch)
    return {"name": profile.name, "batch_size": batch, "inputs": {"key": info.input_name, "value": lr}}


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
