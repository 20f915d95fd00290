"""No command of a hostile bundle reads, writes or removes anything outside it, whatever is in the bundle."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy.backends import builders
from sr_deploy.bundle import EngineRecord, FileRecord, open_bundle
from sr_deploy.cli import main
from sr_deploy.errors import BundleError
from sr_deploy.imaging.codec import write_image

KEY = "0123456789abcdef"
WATCH = Path(__file__).with_name("audit_watch.py")


@pytest.fixture(scope="module")
def watching():
    spec = importlib.util.spec_from_file_location("audit_watch", WATCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sound(make_bundle, tmp_path_factory) -> Path:
    """With an engine of an earlier key, which `build` replaces."""
    bundle = make_bundle("compact-x4", tmp_path_factory.mktemp("sound"))
    backend = "tensorrt-rtx"
    target = (
        builders.describe_target(backend, builders.resolve_compute_capabilities(backend, ())) if can_build() else "sm86"
    )
    record = EngineRecord(
        key=KEY,
        graph_sha256=bundle.manifest.graphs[0].sha256,
        precision="fp32",
        backend=backend,
        backend_version="1.0",
        target=target,
        profiles=bundle.manifest.profiles,
        flags={},
        engine=FileRecord(file=f"engines/{KEY}.engine", sha256=hashlib.sha256(b"engine").hexdigest()),
        layer_precisions={},
        inspected="",
        build_seconds=1.0,
        built_at="2026-01-01",
    )
    bundle.add_engine(record, b"engine")
    return bundle.path


def can_build() -> bool:
    return builders.why_not_buildable("tensorrt-rtx") is None


@dataclass(frozen=True)
class Scene:
    """A bundle, what is not its business, and where commands may write."""

    bundle: Path
    victim: Path
    out: Path


@pytest.fixture
def scene(sound, tmp_path) -> Scene:
    bundle, victim, out = tmp_path / "bundle", tmp_path / "victim", tmp_path / "out"
    shutil.copytree(sound, bundle)
    (victim / "engines").mkdir(parents=True)
    out.mkdir()
    (victim / "precious.dat").write_bytes(b"precious")
    (victim / "precious.json").write_text('{"schema_version": 1}')
    (victim / "important.runtime").write_bytes(b"kernels")
    shutil.copy(bundle / "engines" / f"{KEY}.json", victim / "engines")
    shutil.copy(bundle / "engines" / f"{KEY}.engine", victim / "engines")
    shutil.copy(bundle / "model.fp32.onnx", victim / "model.onnx")
    shutil.copy(bundle / "generator.safetensors", victim / "generator.safetensors")
    return Scene(bundle, victim, out)


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def change(path: Path, edit: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def name_in_manifest(file: str, source: str, *, part: str) -> Callable[[Scene], None]:
    """Name a file outside, with its right hash, as the reference or as a graph."""

    def edit(scene: Scene) -> None:
        outside = scene.victim / source
        record = {"file": file.format(victim=scene.victim), "sha256": hash_of(outside)}
        change(
            scene.bundle / "bundle.json",
            lambda m: (m["reference"] if part == "reference" else m["graphs"][0]).update(record),
        )

    return edit


def put_link(name: str, target: str) -> Callable[[Scene], None]:
    """Put a link to something outside in the place of a file or folder of the bundle."""

    def edit(scene: Scene) -> None:
        place = scene.bundle / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(target.format(victim=scene.victim))

    return edit


def change_record(edit: Callable[[dict, Scene], object]) -> Callable[[Scene], None]:
    return lambda scene: change(scene.bundle / "engines" / f"{KEY}.json", lambda record: edit(record, scene))


def certify_outside(scene: Scene) -> None:
    check = {
        "kind": "weights",
        "file": "../victim/precious.dat",
        "sha256": hash_of(scene.victim / "precious.dat"),
        "what": "x",
        "findings": [],
        "checked_at": "2026-01-01",
    }
    (scene.bundle / "certificate.json").write_text(json.dumps({"schema_version": 1, "checks": [check]}))


def move_weights(scene: Scene, location: str) -> Path:
    """Let the graph look for its largest tensor elsewhere; that is what lies at `weights` outside."""
    graph = scene.bundle / "model.fp32.onnx"
    model = onnx.load(graph)
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    (scene.victim / "weights").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location, 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    graph.write_bytes(model.SerializeToString())
    return graph


def keep_weights_outside(scene: Scene) -> None:
    graph = move_weights(scene, "../victim/weights")
    change(scene.bundle / "bundle.json", lambda m: m["graphs"][0].update(sha256=hash_of(graph)))


def link_new_engine(scene: Scene) -> None:
    """Links under the very names that a build writes to, as far as they can be known beforehand."""
    for path in (scene.bundle / "caches" / f"{KEY}.runtime", scene.bundle / "certificate.html"):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(scene.victim / "precious.dat")


HOSTILE: dict[str, Callable[[Scene], None]] = {
    "engine file outside": change_record(
        lambda record, scene: record["engine"].update(
            file="../victim/precious.dat", sha256=hash_of(scene.victim / "precious.dat")
        )
    ),
    "engine file absolute": change_record(
        lambda record, scene: record["engine"].update(
            file=str(scene.victim / "precious.dat"), sha256=hash_of(scene.victim / "precious.dat")
        )
    ),
    "key outside": change_record(lambda record, _: record.update(key="../../victim/important")),
    "reference absolute": name_in_manifest("{victim}/generator.safetensors", "generator.safetensors", part="reference"),
    "reference outside": name_in_manifest("../victim/precious.dat", "precious.dat", part="reference"),
    "graph outside": name_in_manifest("../victim/model.onnx", "model.onnx", part="graph"),
    "reference a link": put_link("generator.safetensors", "{victim}/generator.safetensors"),
    "graph a link": put_link("model.fp32.onnx", "../victim/model.onnx"),
    "manifest a link": put_link("bundle.json", "{victim}/precious.json"),
    "certificate a link": put_link("certificate.json", "{victim}/precious.json"),
    "engine a link": put_link(f"engines/{KEY}.engine", "{victim}/engines/" + f"{KEY}.engine"),
    "record a link": put_link(f"engines/{KEY}.json", "{victim}/engines/" + f"{KEY}.json"),
    "engines a link": put_link("engines", "{victim}/engines"),
    "caches a link": put_link("caches", "{victim}"),
    "links where commands write": link_new_engine,
    "name absolute": lambda s: change(s.bundle / "bundle.json", lambda m: m.update(name=str(s.victim / "engines"))),
    "name outside": lambda s: change(s.bundle / "bundle.json", lambda m: m.update(name="../victim/engines")),
    "certificate of a file outside": certify_outside,
    "weights of the graph outside": keep_weights_outside,
}


@pytest.fixture
def run_watched(watching, scene, tmp_path, monkeypatch, capsys):
    """Runs a command; gives its exit code, its words, and what it and its children touched beyond what they may."""
    log = tmp_path / "log"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('audit_watch', {str(WATCH)!r})\n"
        f"module = importlib.util.module_from_spec(spec)\n"
        f"spec.loader.exec_module(module)\n"
        f"module.watch(True)\n"
    )
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv(watching.LOG_VARIABLE, str(log))
    monkeypatch.chdir(scene.out)

    def run(arguments) -> tuple[int, str, list[str]]:
        log.write_bytes(b"")
        capsys.readouterr()
        watching.watch(True)
        try:
            code = main([str(one) for one in arguments])
        finally:
            watching.watch(False)
        lines = log.read_text().splitlines()
        return code, capsys.readouterr().err, [line for line in lines if _is_forbidden(line, scene, tmp_path)]

    return run


def _is_forbidden(line: str, scene: Scene, tmp_path: Path) -> bool:
    kind, _, name = line.split("\t")
    path = Path(name)
    if path.is_relative_to(tmp_path):
        return not any(path.is_relative_to(one) for one in (scene.bundle, scene.out, tmp_path / "site"))
    if kind == "reads":
        return path == Path("/etc/passwd")
    allowed = [tempfile.gettempdir(), os.environ["SR_DEPLOY_CACHE"], "/dev", "/proc"]
    return not any(path.is_relative_to(os.path.realpath(one)) for one in allowed) and path.suffix != ".pyc"


def list_commands(scene: Scene, picture: Path) -> dict[str, list[object]]:
    bundle, out = scene.bundle, scene.out
    return {
        "info": ["info", bundle],
        "verify": ["verify", bundle, "--backend", "onnxruntime:fp32"],
        "upscale": ["upscale", picture, out / "o.png", "--model", bundle, "--backend", "onnxruntime:fp32"],
        "evaluate": ["evaluate", bundle, "--hr", picture.parent, "--out", out / "e", "--backend", "onnxruntime:fp32"],
        "build": ["build", bundle, "--backend", "tensorrt-rtx"],
        "export": ["export", bundle, "--backend", "none", "--triton", out / "models"],
        "bench": ["bench", bundle, "--shape", "1x16x16", "--seconds", "0.1", "--backend", "onnxruntime:fp32"],
    }


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "in.png"
    rows = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    write_image(path, np.repeat(rows[..., None], 3, axis=2))
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_outside_a_hostile_bundle_is_touched(scene, run_watched, picture, kind):
    HOSTILE[kind](scene)
    before = digest(scene.victim)
    commands = list_commands(scene, picture)
    opens = True
    try:
        open_bundle(scene.bundle)
    except BundleError:
        opens = False
    # What opens goes on for seconds: each command then runs for the first kind alone, which is as dangerous as any.
    left_out = {"export", "bench", "evaluate"} if opens and kind != "engine file outside" else set()
    if not can_build():
        left_out.add("build")
    for name in (one for one in commands if one not in left_out):
        code, said, forbidden = run_watched(commands[name])
        assert forbidden == [], (name, said)
        assert "internal" not in said, (name, said)
        assert code in ((0, 1) if name != "verify" else (0, 3)), (name, code, said)
        assert digest(scene.victim) == before, (name, said)
    assert {path.name for path in scene.victim.parent.iterdir()} == {"bundle", "out", "victim", "site", "log"}


@pytest.mark.parametrize(
    "location", ["../victim/weights", "{victim}/weights", "link", "device", "sub/../../victim/weights"]
)
def test_a_graph_of_no_bundle_reads_weights_of_its_own_folder_alone(scene, run_watched, picture, location):
    (scene.bundle / "link").symlink_to(scene.victim / "weights")
    (scene.bundle / "device").symlink_to("/dev/zero")
    graph = move_weights(scene, location.format(victim=scene.victim))
    (scene.bundle / "bundle.json").unlink()
    before = digest(scene.victim)
    for arguments in (
        ["info", graph],
        ["verify", graph],
        ["build", graph, "--profile", "a=1x8x8,1x8x8,1x8x8"],
        ["bench", graph, "--shape", "1x16x16"],
        ["upscale", picture, scene.out / "o.png", "--model", graph],
    ):
        code, said, forbidden = run_watched(arguments)
        assert (code, forbidden) == (1, []), (arguments, said)
        assert "model.fp32.onnx keeps weights in another file: " in said or "is not a plain file" in said, said
        assert digest(scene.victim) == before


@pytest.mark.skipif(not can_build(), reason="TensorRT-RTX builds no engines here")
def test_engines_of_a_graph_are_not_written_behind_a_link(scene, run_watched):
    graph = scene.out / "net.onnx"
    shutil.copy(scene.bundle / "model.fp32.onnx", graph)
    (scene.out / "net.engines").symlink_to(scene.victim)
    before = digest(scene.victim)
    code, said, forbidden = run_watched(["build", graph, "--profile", "a=1x8x8,1x8x8,1x8x8"])
    assert (code, forbidden, digest(scene.victim)) == (1, [], before), said
    assert "net.engines is a link; put a folder there, or nothing" in said


def test_the_watch_sees_what_a_command_does(scene, run_watched, picture):
    """The test above would pass if nothing were seen: here the same watch sees writing, in a child too."""
    code, said, forbidden = run_watched(
        ["upscale", picture, scene.victim / "o.png", "--model", scene.bundle, "--backend", "onnxruntime:fp32"]
    )
    assert code == 0, said
    assert f"writes\tos.rename\t{scene.victim / 'o.png'}" in forbidden
