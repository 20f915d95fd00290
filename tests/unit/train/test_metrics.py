from __future__ import annotations

import json

import pytest

from sr_deploy.errors import InputError, OutputError
from sr_deploy.train import metrics
from sr_deploy.train.metrics import MetricsLog


def log_steps(log: MetricsLog, *steps: int) -> None:
    for step in steps:
        log.log_training(step, {"loss": 1 / step, "learning_rate": 1e-3, "steps_per_second": 2.0})


def logged_steps(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def _without_tensorboard(monkeypatch):
    monkeypatch.setattr(metrics, "is_installed", lambda module: False)


@pytest.mark.usefixtures("_without_tensorboard")
def test_lines_after_the_checkpoint_are_dropped_and_a_cut_one_too(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log_steps(log, 10, 20, 30)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "lo')
    with MetricsLog(tmp_path, 20) as log:
        log_steps(log, 25)
    assert logged_steps(tmp_path) == [10, 20, 25]
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first == {"step": 10, "kind": "training", "loss": 0.1, "learning_rate": 0.001, "steps_per_second": 2.0}


@pytest.mark.usefixtures("_without_tensorboard")
def test_lines_that_are_no_figures_of_a_step_are_dropped(tmp_path):
    strange = ("5", "[]", '{"kind": "training"}', '{"step": "x", "kind": "training"}', '{"step": true, "kind": "a"}')
    good = '{"step": 1, "kind": "training", "loss": NaN}'
    (tmp_path / "metrics.jsonl").write_bytes("\n".join((*strange, "[" * 100_000, good)).encode() + b"\n\xff\n")
    with MetricsLog(tmp_path, 20) as log:
        log_steps(log, 25)
    assert logged_steps(tmp_path) == [1, 25]
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[0] == good


@pytest.mark.usefixtures("_without_tensorboard")
def test_a_link_in_place_of_the_log_is_not_followed(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match=r"cannot read .*metrics\.jsonl"):
        MetricsLog(tmp_path, 20)
    with pytest.raises(OutputError, match=r"cannot write .*metrics\.jsonl"), MetricsLog(tmp_path / "new", 0) as log:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "metrics.jsonl").symlink_to(tmp_path / "victim")
        log_steps(log, 1)
    assert not (tmp_path / "victim").exists()


@pytest.mark.usefixtures("_without_tensorboard")
def test_absent_tensorboard_is_named_with_its_command(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log_steps(log, 1)
        assert log.advice == "TensorBoard curves need: pip install 'sr-deploy[train]'"
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.usefixtures("_without_tensorboard")
def test_unwritable_log_is_an_output_error(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(OutputError, match=r"cannot write .*metrics\.jsonl"):
            log_steps(log, 1)


def test_tensorboard_events_hold_the_same_figures(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the train extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path, 0) as log:
        log_steps(log, 1, 2)
        assert log.advice == ""
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("training/loss")] == [(1, 1.0), (2, 0.5)]
