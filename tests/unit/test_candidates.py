"""Which bundle or run a command takes by itself, when some of those that are there cannot be read."""

import json
import os
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.bundle import find_newest_bundle
from sr_deploy.cli import main
from sr_deploy.cli.default_model import find_default_model
from sr_deploy.errors import InputError, NothingFoundError, SrDeployError
from sr_deploy.imaging.codec import write_image
from sr_deploy.measure.machine import describe_machine
from sr_deploy.shipped import DEFAULT_MODEL
from sr_deploy.train.chain import plan_stages
from sr_deploy.train.recipe import write_recipe
from sr_deploy.train.recipe.recipe_files import load_recipe
from sr_deploy.train.run import PrecisionRecord, RunManifest, find_newest_run, free_run_folder, write_manifest

SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in.png", np.random.default_rng(0).integers(90, 160, (24, 24, 3), np.uint8))
    return tmp_path


def make_run(folder, checkpoint=True):
    """A run whose network repeats pixels, so that no guard objects."""
    network = build_network(SPEC)
    for weights in network.parameters():
        weights.data.mul_(0.1)
    now = datetime.now(UTC)
    folder.mkdir(parents=True)
    manifest = RunManifest(
        name=folder.name, recipe="demo", created_at=now, updated_at=now, status="finished", step=1, steps=1, seconds=1,
        precision=PrecisionRecord(autocast="off", channels_last=False), device="cpu", data_sha256="0" * 64, versions={},
        machine=describe_machine(),
    )  # fmt: skip
    write_manifest(folder, manifest)
    write_recipe(folder / "recipe.toml", load_recipe("demo"))
    if checkpoint:
        save_generator(folder / "checkpoints/step-000001/generator.safetensors", network.state_dict(), SPEC)
    return folder


def make_bundle(folder):
    shutil.copytree(DEFAULT_MODEL, folder)
    return folder


def bind_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(b'{"schema_version": 1, "na'),
    "no UTF-8": lambda path: path.write_bytes(b'{"schema_version": 1, "name": "\xff\xfe"}'),
    "another document": lambda path: path.write_text("[1, 2]"),
    "a newer schema": lambda path: path.write_text(json.dumps({"schema_version": 99})),
    "nothing in it": lambda path: path.write_text(json.dumps({"schema_version": 1})),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": bind_socket,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "closed": lambda path: (path.write_text("{}"), path.chmod(0)),
}
KINDS = {
    "runs": (make_run, "run.json", find_newest_run),
    "deployments": (make_bundle, "bundle.json", find_newest_bundle),
}


def damage(path, how):
    if how == "closed" and os.geteuid() == 0:
        pytest.skip("root may read every file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    DAMAGE[how](path)


@pytest.mark.parametrize("place", KINDS)
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_named_and_left_out(here, caplog, place, how):
    make, manifest, find_newest = KINDS[place]
    good = make(here / place / "m-good")
    for name in ("a-bad", "z-bad"):
        damage(here / place / name / manifest, how)
    assert find_newest(Path(place)) == good.relative_to(here)
    told = [line for line in caplog.messages if line.startswith("skipped: ")]
    assert [f"{place}/{name}" in line for name, line in zip(("a-bad", "z-bad"), told, strict=True)] == [True, True]
    shutil.rmtree(good)
    with pytest.raises(SrDeployError, match=r"a-bad.* and 1 more like it; repair it, move it away, or name"):
        find_newest(Path(place))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("runs/good", "runs/bad/run.json"),
        ("runs/good", "deployments/bad/bundle.json"),
        ("deployments/good", "deployments/bad/bundle.json"),
    ],
)
def test_upscale_takes_the_good_one_and_says_which_it_left_out(here, capsys, good, bad):
    KINDS[good.partition("/")[0]][0](here / good)
    damage(here / bad, "cut short")
    assert main(["upscale", "in.png", "out.png"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"model    {good}\n")
    assert f"skipped: {bad} is damaged: " in said.err
    assert "ships with sr-deploy" not in said.err


@pytest.mark.parametrize("bad", ["runs/bad/run.json", "deployments/bad/bundle.json"])
@pytest.mark.parametrize("words", [["upscale", "in.png", "out.png"], ["evaluate", "--hr", "."]])
def test_where_something_failed_no_other_network_is_taken(here, capsys, bad, words):
    damage(here / bad, "no UTF-8")
    assert main(words) == 1
    assert f"error: {bad} is damaged: " in capsys.readouterr().err
    assert not (here / "out.png").exists()


@pytest.mark.parametrize(
    ("words", "place"),
    [(["export"], "runs"), (["train", "--resume"], "runs"), (["verify"], "deployments"), (["bench"], "deployments"),
     (["build"], "deployments")],
)  # fmt: skip
def test_every_command_names_what_cannot_be_read(here, capsys, words, place):
    manifest = KINDS[place][1]
    damage(here / place / "bad" / manifest, "a pipe")
    assert main(words) == 1
    said = capsys.readouterr().err
    assert f"skipped: {place}/bad/{manifest} is damaged: " in said
    assert f"error: {place}/bad/{manifest} is damaged: " in said


@pytest.mark.parametrize("place", KINDS)
def test_names_with_a_dot_are_nobodys(here, caplog, place):
    make, manifest, find_newest = KINDS[place]
    make(here / place / ".partial-x")
    damage(here / place / ".demo" / manifest, "cut short")
    (here / place / ".demo.lock").touch()
    with pytest.raises(NothingFoundError, match=f"in {place}; "):
        find_newest(Path(place))
    older = make(here / place / "older")
    make(here / place / ".partial-y")
    assert find_newest(Path(place)) == older.relative_to(here)
    assert caplog.messages == []


def test_what_cannot_be_looked_into_is_not_taken_for_nothing(here, capsys):
    (here / "deployments").write_text("")
    with pytest.raises(InputError, match="cannot look into deployments: Not a directory"):
        find_default_model("--model MODEL")
    make_run(here / "runs/good")
    assert find_default_model("--model MODEL") == Path("runs/good")
    shutil.rmtree(here / "runs")
    assert main(["upscale", "in.png", "out.png"]) == 1
    assert "error: cannot look into deployments: Not a directory" in capsys.readouterr().err


def test_with_nothing_there_the_shipped_network_is_taken(here, capsys):
    make_run(here / "runs/begun", checkpoint=False)
    (here / "deployments").mkdir()
    (here / "deployments/notes.txt").touch()
    assert main(["upscale", "in.png", "out.png"]) == 0
    assert "taking small-x2, which ships with sr-deploy" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "recipe.toml"])
def test_a_damaged_run_does_not_stop_the_chain_of_stages(here, caplog, name):
    run = make_run(here / "runs/esrgan-psnr")
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(manifest | {"recipe": "esrgan-psnr"}))
    damage(run / name, "no UTF-8")
    stages = plan_stages("esrgan", [], Path("runs"), alone=False)
    assert [(stage.run.name, stage.action) for stage in stages] == [("esrgan-psnr-2", "train"), ("esrgan", "train")]
    assert [line.partition(" is")[0] for line in caplog.messages] == [f"skipped: runs/esrgan-psnr/{name}"]


def test_a_name_that_leads_nowhere_is_taken_all_the_same(here):
    (here / "demo").symlink_to("nowhere")
    assert free_run_folder(here, "demo") == here / "demo-2"
