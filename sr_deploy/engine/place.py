"""What engines are built for: a bundle, or any ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.bundle import Bundle, EnginePlan, GraphRecord, Profile, Shape, open_bundle
from sr_deploy.bundle.engine_folder import EngineFolder, engines_of_graph
from sr_deploy.engine.profiles import check_names, check_profiles, check_sides
from sr_deploy.errors import ShapeError
from sr_deploy.files import sha256_of
from sr_deploy.graph.read import GraphInfo, read_graph


@dataclass(frozen=True)
class EnginePlace:
    """Graphs, and the folder that their engines are kept in."""

    path: Path
    """What the user named: the bundle's folder, or the ONNX file."""
    folder: EngineFolder
    graphs: tuple[tuple[Path, GraphRecord], ...]
    """Each graph's file and record."""
    plan: EnginePlan
    """How engines are built unless the command says otherwise."""
    profiles: tuple[Profile, ...]
    """Shapes that engines take."""


def find_place(source: Bundle | Path | str, profiles: Sequence[Profile]) -> EnginePlace:
    """Open what engines are to be built for, and check the shapes.

    Args:
        source: a bundle, its folder, or an ONNX file.
        profiles: shapes to take; empty: the bundle's, or the one shape of a graph that takes no other.

    Raises:
        InputError: no bundle and no ONNX file.
        ShapeError: no shapes, or impossible ones.
    """
    if not isinstance(source, Bundle) and Path(source).suffix == ".onnx":
        return _describe_graph(Path(source), tuple(profiles))
    bundle = source if isinstance(source, Bundle) else open_bundle(Path(source))
    manifest = bundle.manifest
    shapes = tuple(profiles) or manifest.profiles
    check_profiles(shapes, manifest.arch)
    graphs = tuple((bundle.path / graph.file, graph) for graph in manifest.graphs)
    return EnginePlace(bundle.path, bundle, graphs, manifest.engine, shapes)


def _describe_graph(path: Path, profiles: tuple[Profile, ...]) -> EnginePlace:
    info = read_graph(path)
    record = GraphRecord(file=path.name, sha256=sha256_of(path), precision=info.precision)
    shapes = profiles or _list_fixed(info)
    check_names(shapes)
    check_sides(shapes, info.input_multiple, path.name)
    _check_declared(shapes, info)
    return EnginePlace(path, engines_of_graph(path), ((path, record),), EnginePlan(), shapes)


def _list_fixed(info: GraphInfo) -> tuple[Profile, ...]:
    if info.fixed_shape is None:
        return ()
    shape = Shape(*info.fixed_shape)
    return (Profile(name="fixed", min=shape, opt=shape, max=shape),)


def _check_declared(profiles: Sequence[Profile], info: GraphInfo) -> None:
    """Axes that the graph fixes have that size in every profile."""
    declared = (info.input_shape[0], *info.input_shape[2:])
    for profile in profiles:
        for shape in (profile.min, profile.opt, profile.max):
            if any(size not in (None, side) for size, side in zip(declared, shape, strict=True)):
                taken = "x".join(str(size or axis) for axis, size in zip("NHW", declared, strict=True))
                raise ShapeError(f"profile {profile.name!r} has {shape}, but {info.path.name} takes {taken} alone")
