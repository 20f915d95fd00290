"""The distillation loss against numbers made by hand, and the teacher as a run has it."""

from __future__ import annotations

import json

import pytest
import torch

from sr_deploy.arch.registry import architecture_names, build_network, get_architecture
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.errors import InputError, TrainingError
from sr_deploy.run_folder import TEACHER_NAME
from sr_deploy.train.changes import find_changes
from sr_deploy.train.loop import train
from sr_deploy.train.losses.distill import measure_affinity_distance
from sr_deploy.train.losses.registry import LossInputs, TeacherOutput, get_loss
from sr_deploy.train.networks import check_inputs
from sr_deploy.train.teacher import Teacher, TeacherNetwork

CPU = torch.device("cpu")
SMALL = {"features": 8, "blocks": 1}
SPECS = [
    ArchSpec(architecture="compact", scale=2, **SMALL),
    ArchSpec(architecture="msrresnet", scale=2, **SMALL),
    ArchSpec(architecture="srresnet", scale=2, **SMALL),
    ArchSpec(architecture="rrdbnet", scale=4, growth=4, **SMALL),
    ArchSpec(architecture="rrdbnet", scale=2, growth=4, **SMALL),
    ArchSpec(architecture="span", scale=2, **SMALL),
    ArchSpec(architecture="realplksr", scale=2, kernel=5, partial=2, **SMALL),
]


def test_affinity_is_that_of_all_pairs_of_positions():
    features = torch.tensor([[3.0, 0.0], [4.0, 2.0]]).reshape(1, 2, 1, 2)  # (0.6, 0.8) and (0, 1): 0.8 alike
    expected = torch.tensor([[1.0, -2.0]]).reshape(1, 1, 1, 2)  # one channel: opposite
    assert measure_affinity_distance(features, expected).item() == pytest.approx((0.8 + 1.0) / 2)
    assert measure_affinity_distance(features, 7 * features).item() == pytest.approx(0, abs=1e-6)


def test_maps_of_other_sizes_are_averaged_down_to_the_smaller():
    large = torch.randn(2, 3, 80, 12, generator=torch.Generator().manual_seed(1))
    small = torch.nn.functional.avg_pool2d(large, 2)  # 40 x 6, of which 32 x 6 are compared
    halved = torch.nn.functional.adaptive_avg_pool2d(large, (32, 6))
    found = measure_affinity_distance(large, small)
    assert found.item() == pytest.approx(measure_affinity_distance(halved, small).item(), rel=1e-6)
    assert found.item() < 0.7 * measure_affinity_distance(large, small.flip(3)).item()


def test_pixels_and_features_add_up_and_networks_that_name_no_features_are_refused():
    loss = get_loss("distill")
    sr, expected = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.25)
    maps = torch.tensor([[1.0, 1.0]]).reshape(1, 1, 1, 2), torch.tensor([[1.0, -1.0]]).reshape(1, 1, 1, 2)
    for factor, features, due in ((0.0, None, 0.25), (0.5, maps, 0.25 + 0.5 * 1.0)):
        measure = loss.build(loss.options(weight=1.0, features=factor), CPU)
        inputs = LossInputs(sr, sr, sr, sr, lambda _: sr, lambda _, maps=features: TeacherOutput(expected, maps))
        assert measure(inputs).item() == pytest.approx(due)
    with pytest.raises(TrainingError, match=r"loss\.distill\.features = 0\.5 compares feature maps"):
        measure(LossInputs(sr, sr, sr, sr, lambda _: sr, lambda _: TeacherOutput(expected, None)))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title())
def test_the_last_feature_map_is_at_low_resolution_and_all_that_follows_depends_on_it(spec):
    assert {one.architecture for one in SPECS} == set(architecture_names())
    student, arch = build_network(SPECS[0]).train(), SPECS[0]
    network = build_network(spec).train()  # which a teacher is not left in
    teacher = Teacher(TeacherNetwork(network, spec), student, arch)
    lr = torch.rand(2, 3, 12, 8)
    student(lr)
    taught = teacher(lr)
    mine, theirs = taught.features
    assert mine.shape == (2, 8, 12, 8)
    assert mine.requires_grad
    assert not theirs.requires_grad
    assert theirs.shape == (2, 8, *((6, 4) if spec.architecture == "rrdbnet" and spec.scale == 2 else (12, 8)))
    assert not network.training
    layer = network.get_submodule(get_architecture(spec.architecture).last_features(spec))
    layer.register_forward_hook(lambda *_: torch.zeros_like(theirs))
    assert not torch.equal(network(lr), taught.sr_NCHW)
    with pytest.raises(KeyError):  # no step's maps outlive it
        teacher(lr)


@pytest.fixture
def teacher_file(tmp_path):
    spec = ArchSpec(architecture="rrdbnet", scale=2, growth=4, features=8, blocks=1)
    torch.manual_seed(1)
    save_generator(tmp_path / "teacher.safetensors", build_network(spec).state_dict(), spec)
    return tmp_path / "teacher.safetensors"


def test_a_run_keeps_its_teacher_and_goes_on_without_the_file(make_recipe, tmp_path, teacher_file):
    distill = {"distill": {"weight": 1.0, "features": 0.1, "teacher": str(teacher_file)}}

    def ask(steps):
        return make_recipe(loss={"weight": 0.0, **distill}, run={"steps": steps, "log_every": 1})

    check_inputs(ask(6))
    before = read_checkpoint(teacher_file)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(ask(6), whole, device="cpu")
    train(ask(3), parted, device="cpu")
    teacher_file.unlink()
    check_inputs(ask(6), resume=True)
    train(ask(6), parted, device="cpu", resume=True)
    lines = [
        [(line["step"], line["loss"]) for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
         if line["kind"] == "training"]
        for run in (whole, parted)
    ]  # fmt: skip
    assert lines[0] == lines[1]
    assert len(lines[0]) == 6
    kept = read_checkpoint(parted / TEACHER_NAME)
    assert kept.spec == before.spec
    assert all(torch.equal(kept.state[key], one) for key, one in before.state.items())  # it did not learn


def test_another_teacher_is_asked_for_and_unfit_ones_are_refused(make_recipe, tmp_path, teacher_file):
    def ask(path, steps=2):
        return make_recipe(loss={"distill": {"weight": 1.0, "teacher": str(path)}}, run={"steps": steps})

    train(ask(teacher_file), tmp_path / "run", device="cpu")
    other = teacher_file.with_name("other.safetensors")
    spec = ArchSpec(architecture="compact", scale=2, **SMALL)
    save_generator(other, build_network(spec).state_dict(), spec)
    with pytest.raises(TrainingError, match=r"--set loss\.distill\.teacher=VALUE"):
        find_changes(ask(other), tmp_path / "run", ())
    train(ask(other, steps=4), tmp_path / "run", device="cpu", resume=True, changes=["loss.distill.teacher"])
    assert read_checkpoint(tmp_path / "run" / TEACHER_NAME).spec == spec
    with pytest.raises(InputError, match=r"with --set loss\.distill\.teacher=FILE"):
        check_inputs(ask(tmp_path / "gone.pth"))
    x4 = ArchSpec(architecture="compact", scale=4, **SMALL)
    save_generator(other, build_network(x4).state_dict(), x4)
    with pytest.raises(TrainingError, match="enlarges x4 with 3 channels, and recipe tiny trains x2 with 3"):
        check_inputs(ask(other))
