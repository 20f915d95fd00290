"""The deployment specs that are shipped: each is found by name, makes what it says, and is one that can be built."""

from __future__ import annotations

import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import builders
from sr_deploy.bundle import EnginePlan, Shape
from sr_deploy.config import companion_folder, named_files
from sr_deploy.deploy import _write_bundle
from sr_deploy.engine.bundle import build_engines, check_plan
from sr_deploy.engine.profiles import check_profiles
from sr_deploy.export.int8.bundle import Calibration
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.spec import load_spec
from sr_deploy.graph.read import read_graph
from sr_deploy.model import open_model

SPECS = ("cpu", "default", "edge-int8", "photo-tiles", "rtx-portable", "video-1080p", "video-720p")
FEW = {"crops": 4, "search_crops": 1, "gate_crops": 2, "curve_points": 2}  # the search is tested elsewhere
LARGEST = (
    ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=23, growth=32),
    ArchSpec(architecture="rrdbnet", scale=1, features=64, blocks=23, growth=32),
)
needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, write_network):
    """Bundles of a small network, by the name of the spec; the rewrites, which time graphs, are tested elsewhere."""
    folder = tmp_path_factory.mktemp("specs")
    write_network(folder / "net.safetensors", ArchSpec(architecture="compact", scale=2, features=4, blocks=1))
    made = {}

    def get(name):
        if name not in made:
            spec = load_spec(name).with_options(rewrite=False, int8_changes=FEW)
            model, calibration = open_model(folder / "net.safetensors"), Calibration(force=True)
            made[name] = _write_bundle(model, spec, folder / name, calibration)[0]
        return made[name]

    return get


def test_all_that_are_documented_are_there():
    assert set(SPECS) <= set(named_files("export"))


def test_readme_explains_every_field_of_every_table():
    text = (companion_folder("export") / "README.md").read_text()
    for title, model in (("engine", EnginePlan), ("int8", Int8Options)):
        section = text.split(f"### The table `[{title}]`\n", 1)[1].split("\n#", 1)[0]
        assert {field for field in model.model_fields if f"`{field}`" not in section} == set()


@pytest.mark.parametrize("name", named_files("export"))
def test_plans_can_be_carried_out_and_profiles_suit_every_network(name):
    spec = load_spec(name)
    assert spec.description
    check_plan(spec.engine)
    for arch in LARGEST:
        check_profiles(spec.profiles, arch)
    if builders.sdk_version("tensorrt-rtx") is not None:
        builders.resolve_compute_capabilities("tensorrt-rtx", spec.engine.compute_capabilities)


@pytest.mark.parametrize("name", SPECS)
def test_a_network_is_exported_as_the_spec_says(name, bundles):
    spec, bundle = load_spec(name), bundles(name)
    assert bundle.precisions == spec.precisions
    assert bundle.manifest.profiles == spec.profiles
    assert bundle.manifest.engine == spec.engine
    dtype = {"fp32": "float32", "uint8": "uint8"}[spec.io_dtype]
    for precision in bundle.precisions:
        assert read_graph(bundle.graph(precision)).input_dtype == dtype


def test_video_specs_take_whole_frames_as_decoders_give_them():
    for name, shape in (("video-720p", Shape(1, 720, 1280)), ("video-1080p", Shape(1, 1080, 1920))):
        spec = load_spec(name)
        frame = spec.profiles[0]
        assert (spec.io_dtype, frame.min, frame.opt, frame.max) == ("uint8", shape, shape, shape)
    assert any(profile.opt.n == 4 for profile in load_spec("video-720p").profiles)


@needs_rtx
def test_rtx_portable_builds_for_the_cards_that_it_names(bundles):
    result = build_engines(bundles("rtx-portable"))
    assert [record.precision for record in result.built] == ["fp32", "fp16"]
    assert {record.target for record in result.built} == {"sm75+sm86+sm89+sm120"}
    again = build_engines(bundles("rtx-portable"))
    assert (again.built, len(again.kept)) == ((), 2)


@needs_rtx
def test_a_video_spec_builds_with_all_its_shapes(bundles):
    result = build_engines(bundles("video-720p"), compute_capabilities=["sm89"])
    record = result.built[1]
    assert [profile.name for profile in record.profiles] == ["frame", "cropped", "batch"]
    assert record.multiply_add_shares == pytest.approx({"fp16": 1.0})
    assert record.flags["optimization_level"] == "5"


@pytest.mark.slow
@needs_rtx
def test_edge_int8_builds_and_declares_how_much_is_int8(bundles):
    result = build_engines(bundles("edge-int8"), compute_capabilities=["sm89"])
    assert [record.precision for record in result.built] == ["fp32", "fp16", "int8"]
    shares = result.built[2].multiply_add_shares
    assert set(shares) == {"int8", "fp16"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["int8"] == pytest.approx(bundles("edge-int8").manifest.graph("int8").int8_share)


def test_cpu_asks_for_no_engines(bundles):
    assert build_engines(bundles("cpu")).built == ()
