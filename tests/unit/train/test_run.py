from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from sr_deploy.errors import InputError, LockedError, OutputError, TrainingError, UnsafePathError
from sr_deploy.locks import LOCK_NAME
from sr_deploy.measure.machine import describe_machine
from sr_deploy.run_folder import find_last_checkpoint
from sr_deploy.train.run import (
    PrecisionRecord,
    RunManifest,
    claim_run_folder,
    find_newest_run,
    free_run_folder,
    read_manifest,
    require_run,
    write_manifest,
)


def make_manifest(name="demo") -> RunManifest:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return RunManifest(
        name=name,
        recipe="demo",
        created_at=now,
        updated_at=now,
        status="running",
        step=3,
        steps=9,
        seconds=1.5,
        precision=PrecisionRecord(autocast="bf16", channels_last=True),
        device="cpu",
        data_sha256="0" * 64,
        versions={"torch": "2"},
        machine=describe_machine(),
    )


def test_manifest_reads_back_with_the_time_of_writing(tmp_path):
    written = write_manifest(tmp_path, make_manifest())
    assert read_manifest(tmp_path) == written
    assert datetime.now(UTC) - written.updated_at < timedelta(minutes=1)
    assert json.loads((tmp_path / "run.json").read_text())["schema_version"] == 1
    assert written.precision.title() == "bf16, channels last"


def test_damaged_and_foreign_manifests_are_named(tmp_path):
    with pytest.raises(InputError, match=r"is not a run: it has no run\.json"):
        read_manifest(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_version": 2}')
    with pytest.raises(InputError, match=r"that this version reads \(schema 1\): schema_version"):
        read_manifest(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged: Expecting property name"):
        read_manifest(tmp_path)
    with pytest.raises(TrainingError, match="there is no run; start one"):
        require_run(tmp_path / "nowhere")


def test_a_new_run_takes_the_next_free_name(tmp_path):
    assert free_run_folder(tmp_path, "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert free_run_folder(tmp_path, "demo") == tmp_path / "demo-3"


def test_a_named_folder_must_be_new_or_empty(tmp_path):
    for _ in range(2):
        with claim_run_folder(tmp_path / "a" / "b") as run:
            assert run == tmp_path / "a" / "b"
            assert os.listdir(run) == [LOCK_NAME]
        assert not run.exists()  # nothing came of it
    (tmp_path / "a" / "b").mkdir()
    with claim_run_folder(tmp_path / "a" / "b"):
        pass
    assert os.listdir(tmp_path / "a" / "b") == []  # the user's own empty folder stays
    refuse(tmp_path / "a", "is not empty")
    write_manifest(tmp_path / "a", make_manifest())
    refuse(tmp_path / "a", "holds a run already; go on with it with --resume")
    (tmp_path / "file").write_text("")
    refuse(tmp_path / "file", "a file stands where a folder is needed")
    refuse(tmp_path / "file" / "run", "a file stands where a folder is needed")


def refuse(folder, reason):
    with pytest.raises(OutputError, match=reason), claim_run_folder(folder):
        pass


def test_a_name_that_another_process_took_meanwhile_gives_way_to_the_next(tmp_path):
    planned = free_run_folder(tmp_path, "demo")
    with claim_run_folder(planned, name="demo") as first, claim_run_folder(planned, name="demo") as second:
        assert (first, second) == (tmp_path / "demo", tmp_path / "demo-2")
        write_manifest(second, make_manifest())
        told = f"demo is being written by another sr-deploy .process {os.getpid()} on"
        with pytest.raises(LockedError, match=told), claim_run_folder(planned):
            pass
    assert sorted(os.listdir(tmp_path)) == ["demo-2"]
    assert os.listdir(second) == ["run.json"]


def test_newest_run_is_the_one_written_last_whatever_the_file_times(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, make_manifest(name))
    (tmp_path / "b" / "checkpoints" / "step-000010").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "step-000007").mkdir(parents=True)
    (tmp_path / "b" / "run.json").touch()
    assert find_newest_run(tmp_path) == tmp_path / "a"
    assert find_newest_run(tmp_path, with_checkpoint=False) == tmp_path / "c"
    with pytest.raises(InputError, match=r"no run .* in .*nowhere; .*sr-deploy train"):
        find_newest_run(tmp_path / "nowhere")


def test_last_checkpoint_is_the_highest_step_and_never_a_partial_one(tmp_path):
    for name in ("step-000900", "step-1000000", "step-000950", ".partial-step-2000000", "step-9", "best"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert find_last_checkpoint(tmp_path) == (1_000_000, tmp_path / "checkpoints" / "step-1000000")
    assert find_last_checkpoint(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("name", ["checkpoints", "previews", "metrics.jsonl", "recipe.toml", "tensorboard", "run.json"])
def test_a_run_with_a_link_that_leads_out_is_not_gone_on_with(tmp_path, name):
    run, outside = tmp_path / "run", tmp_path / "outside"
    (outside / "step-000010").mkdir(parents=True)
    run.mkdir()
    write_manifest(run, make_manifest())
    assert require_run(run).name == make_manifest().name
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    with pytest.raises(UnsafePathError, match=f"{name} is a link that leads out of"):
        require_run(run)


@pytest.mark.parametrize("name", ["/etc", "../x/step-000001", "checkpoints/../../step-000001", "checkpoints/step-1"])
def test_checkpoints_that_are_none_of_the_runs_are_refused(tmp_path, name):
    write_manifest(tmp_path, make_manifest())
    document = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**document, "checkpoints": [name]}))
    with pytest.raises(InputError, match=r"checkpoints\.0: String should match pattern"):
        read_manifest(tmp_path)
