from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from sr_deploy import run_folder
from sr_deploy.errors import InputError
from sr_deploy.run_folder import (
    checkpoint_folder,
    find_last_checkpoint,
    find_named_checkpoint,
    is_run,
    list_checkpoints,
    list_weights,
    split_checkpoint_name,
)

PACKAGE = Path(run_folder.__file__).parent


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_checkpoints_are_those_with_a_step_for_a_name(tmp_path):
    for step in (500, 1_000_000, 20_000):
        checkpoint_folder(tmp_path, step).mkdir(parents=True)
    for name in (".partial-step-000900", "step-900", "step-000900-copy", "best"):
        (tmp_path / "checkpoints" / name).mkdir()
    write(tmp_path / "checkpoints" / "step-000700")
    assert [step for step, _ in list_checkpoints(tmp_path)] == [500, 20_000, 1_000_000]
    assert find_last_checkpoint(tmp_path) == (1_000_000, tmp_path / "checkpoints" / "step-1000000")
    assert find_last_checkpoint(tmp_path / "none") is None


def test_weights_are_newest_first_and_averaged_before_others(tmp_path):
    older = [
        write(checkpoint_folder(tmp_path, 500) / name)
        for name in ("generator_ema.safetensors", "generator.safetensors")
    ]
    newer = write(checkpoint_folder(tmp_path, 1_000_000) / "generator.safetensors")
    assert list_weights(tmp_path) == [newer, *older]
    assert list_weights(older[0].parent) == older
    assert list_weights(newer) == []


def test_a_run_is_known_by_its_manifest(tmp_path):
    assert not is_run(tmp_path)
    assert not is_run(write(tmp_path / "run.json"))
    assert is_run(tmp_path)


def test_no_other_module_names_its_files():
    names = {value for key, value in vars(run_folder).items() if key.endswith("_NAME")}
    # Torch's folder, a package and a file of bundles have these names too.
    names -= {run_folder.CHECKPOINTS_NAME, run_folder.TENSORBOARD_NAME, run_folder.GENERATOR_NAME}
    assert {"run.json", "generator_ema.safetensors", "previews"} < names
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "run_folder.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]
    assert found == []


def test_a_checkpoint_is_named_behind_its_run(tmp_path, monkeypatch):
    run, plain = tmp_path / "demo", tmp_path / "demo@best"
    assert split_checkpoint_name(plain) == (plain, "")  # no run of that name
    write(run / "run.json")
    assert split_checkpoint_name(plain) == (run, "best")
    assert split_checkpoint_name(tmp_path / "demo@300") == (run, "300")
    assert split_checkpoint_name(tmp_path / "demo@first") == (tmp_path / "demo@first", "")
    monkeypatch.chdir(run)
    assert split_checkpoint_name(Path(".@last")) == (Path("."), "last")
    plain.mkdir()
    assert split_checkpoint_name(plain) == (plain, "")  # what is there goes before


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        ({"best_checkpoint": "checkpoints/step-000300"}, 300),
        ({"best_checkpoint": None, "best_validation": {"step": 500}}, 500),
        ({"best_checkpoint": "../step-000300"}, None),
        ({"best_validation": {"step": "500"}}, None),
        ([], None),
    ],
)
def test_the_best_is_what_the_manifest_says_if_it_was_kept(tmp_path, manifest, found):
    for step in (300, 500):
        checkpoint_folder(tmp_path, step).mkdir(parents=True)
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    if found is not None:
        assert find_named_checkpoint(tmp_path, "best") == checkpoint_folder(tmp_path, found)
        return
    with pytest.raises(InputError, match=r"no checkpoint 'best'; kept .*: 300, 500; give .*@STEP with one of them"):
        find_named_checkpoint(tmp_path, "best")
