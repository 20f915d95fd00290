"""Weights & Biases: what is sent, that one run there goes on, and that no trouble with it ends a training."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.errors import MissingDependencyError, RecipeError
from sr_deploy.imaging.codec import read_image
from sr_deploy.train.loop import train
from sr_deploy.train.metrics import read_metrics
from sr_deploy.train.networks import check_inputs
from sr_deploy.train.run import read_manifest

FAILING = """
class Settings:
    def __init__(self, **settings):
        pass

class Run:
    offline, logged = True, 0

    def define_metric(self, name, step_metric):
        pass

    def log(self, values):
        Run.logged += 1
        if Run.logged == 2:
            raise ConnectionError("the network\\n is gone")

def init(**options):
    return Run()

class Image:
    pass
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package itself, with settings of this test alone."""
    package = pytest.importorskip("wandb", reason="needs the wandb extra")
    package.teardown()  # what it knows of another test's environment
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield package
    package.teardown()


def read_records(path: Path) -> Iterator[Any]:
    """Records of its file, which is a log as LevelDB writes them, behind a header of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:
            at += 32768 - at % 32768  # no record begins in the last bytes of a block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def read_history(path: Path) -> list[dict[str, Any]]:
    """What was sent, by name, without what it adds itself."""
    lines = []
    for record in read_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            lines.append({name: json.loads(text) for name, text in items.items() if not name.startswith("_")})
    return lines


def test_figures_and_previews_are_sent_and_a_run_that_goes_on_is_the_same_there(
    tmp_path, make_recipe, monkeypatch, said, wandb
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    sections = {"wandb": "toy project", "preview_every": 5}
    train(make_recipe(run={**sections, "steps": 6}), run)
    train(make_recipe(run={**sections, "steps": 12}), run, resume=True)
    assert not any("Weights & Biases failed" in line for line in said)
    run_id = read_manifest(run).wandb_id
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{run_id}.wandb"] * 2
    for path in files:
        (begun,) = (one.run for one in read_records(path) if one.WhichOneof("record_type") == "run")
        assert (begun.project, begun.display_name, begun.run_id) == ("toy project", "run", run_id)
        assert begun.host == ""
        assert not list(path.parent.glob("files/*.*"))  # no output, packages or code
    sent = [line for path in files for line in read_history(path)]
    logged = [line for line in read_metrics(run) if line["kind"] == "training"]
    expected = [
        {f"training/{key}": value for key, value in line.items() if key not in ("step", "kind")} for line in logged
    ]
    assert [line for line in sent if "training/loss" in line] == [
        {**figures, "step": line["step"]} for figures, line in zip(expected, logged, strict=True)
    ]
    assert [(line["step"], line["validation/psnr_y"]) for line in sent if "validation/psnr_y" in line] == [
        (line["step"], line["model"]["psnr_y"]) for line in read_metrics(run) if line["kind"] == "validation"
    ]
    shown = [(line["step"], line["preview/path"]) for line in sent if "preview/path" in line]
    assert [step for step, _ in shown] == [5, 6, 10, 12]
    for step, name in shown:
        (picture,) = (run / "wandb").glob(f"offline-run-*/files/{name}")
        assert np.array_equal(read_image(picture), read_image(run / "previews" / f"step-{step:06d}.png"))


def test_a_network_that_is_gone_ends_no_training(tmp_path, make_recipe, monkeypatch, said, wandb):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with socket.socket() as nobody:  # who listens to nobody
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert train(make_recipe(run={"wandb": "toy"}), tmp_path / "run").status == "finished"
    (line,) = (line for line in said if "Weights & Biases" in line)
    assert "failed, and gets nothing more of this run (CommError)" in line
    assert "connection refused" in line


def test_a_failure_on_the_way_is_said_once_and_the_training_goes_on(tmp_path, make_recipe, monkeypatch, said):
    """By a package of that name which fails as no network can be made to."""
    (tmp_path / "packages" / "wandb").mkdir(parents=True)
    (tmp_path / "packages" / "wandb" / "__init__.py").write_text(FAILING)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    try:
        assert train(make_recipe(run={"wandb": "toy"}), tmp_path / "run").status == "finished"
        assert sys.modules["wandb"].Run.logged == 2
    finally:
        sys.modules.pop("wandb", None)
    assert [line for line in said if "Weights & Biases" in line] == [
        "Weights & Biases failed, and gets nothing more of this run (ConnectionError): the network is gone; "
        "metrics.jsonl has all figures"
    ]
    assert [line["step"] for line in read_metrics(tmp_path / "run") if line["kind"] == "training"] == [3, 6, 9, 12]


def test_without_the_package_the_command_that_installs_it_comes_before_anything(tmp_path, make_recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python itself does for "not importable"
    recipe = make_recipe(run={"wandb": "toy"})
    command = r"run\.wandb = 'toy' needs wandb, which is not installed; run: pip install 'sr-deploy\[wandb\]'"
    with pytest.raises(MissingDependencyError, match=command):
        train(recipe, tmp_path / "run")
    with pytest.raises(MissingDependencyError, match=command):  # before hours of the stages that come first
        check_inputs(recipe)
    assert not (tmp_path / "run").exists()


def test_nothing_is_sent_unless_it_is_asked_for(tmp_path, make_recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    manifest = train(make_recipe(run={"steps": 1}), tmp_path / "run")
    assert manifest.wandb_id is None
    assert not (tmp_path / "run" / "wandb").exists()


def test_a_name_that_no_project_can_have_is_refused(make_recipe):
    with pytest.raises(RecipeError, match=r"run\.wandb"):
        make_recipe(run={"wandb": "me/project"})
