import dataclasses

import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import EngineRecord, FileRecord, Shape, parse_profile
from sr_deploy.bundle.trust import EngineTrust
from sr_deploy.errors import BackendError, ShapeError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import Gpu
from sr_deploy.model import open_model
from sr_deploy.runners.engines import EngineSearch, find_engine, find_engine_folder, make_search, why_stale

SEARCH = EngineSearch(
    choice=BackendChoice("tensorrt-rtx", "fp16"),
    version="1.7.1",
    graph_sha256="a" * 64,
    gpu=Gpu("NVIDIA GeForce RTX 4090", "sm89"),
    rebuild="sr-deploy build deployments/x --backend tensorrt-rtx",
    trust=EngineTrust(elsewhere=True),
)


def make_record(**changes):
    fields = {
        "key": "0123456789abcdef",
        "graph_sha256": "a" * 64,
        "precision": "fp16",
        "backend": "tensorrt-rtx",
        "backend_version": "1.7.1",
        "target": "sm86+sm89",
        "profiles": (parse_profile("tile=1x8x8,1x16x16,1x32x32"),),
        "flags": {},
        "engine": FileRecord(file="engines/0123456789abcdef.engine", sha256="b" * 64),
        "layer_precisions": {},
        "inspected": "",
        "build_seconds": 1.0,
        "built_at": "2026-01-01",
    }
    return EngineRecord(**(fields | changes))


def test_the_newest_engine_that_fits_is_taken():
    old, new = make_record(), make_record(built_at="2026-02-01")
    stale = make_record(built_at="2026-03-01", backend_version="1.6")
    assert find_engine([new, stale, old], SEARCH) is new
    by_name = make_record(target="NVIDIA GeForce RTX 4090")
    assert find_engine([by_name], SEARCH) == by_name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backend_version": "1.6.0"}, "was built by tensorrt-rtx 1.6.0, and 1.7.1 is installed"),
        ({"graph_sha256": "c" * 64}, "was built from another graph"),
        ({"target": "sm75+sm120"}, r"was built for sm75\+sm120, and this GPU is NVIDIA GeForce RTX 4090 \(sm89\)"),
        ({"target": "sm8"}, "was built for sm8,"),
    ],
)
def test_a_stale_engine_is_an_error_that_says_what_to_run(changes, reason):
    with pytest.raises(BackendError, match=reason) as raised:
        find_engine([make_record(**changes)], SEARCH)
    assert str(raised.value).endswith("on this machine run: sr-deploy build deployments/x --backend tensorrt-rtx")
    assert "\n" not in str(raised.value)


def test_a_version_compatible_engine_runs_on_later_releases_of_its_major_version():
    flags = {"version_compatible": "on"}

    def finds(built: str, installed: str) -> bool:
        record = make_record(backend_version=built, flags=flags)
        return why_stale(record, dataclasses.replace(SEARCH, version=installed)) is None

    assert finds("10.9.0.34", "10.14.1.48")
    assert finds("11.4.0.106", "11.4.0.106")
    assert not finds("10.14.1.48", "10.9.0.34")
    assert not finds("10.9.0.34", "11.4.0.106")
    flags["version_compatible"] = "off"
    assert not finds("10.9.0.34", "10.14.1.48")


def test_a_hardware_compatible_engine_runs_on_other_gpus_from_ampere_on():
    record = make_record(target="NVIDIA A10", flags={"hardware_compatible": "on"})

    def runs_on(capability: str) -> bool:
        gpu = Gpu("NVIDIA Other", capability)
        return why_stale(record, dataclasses.replace(SEARCH, gpu=gpu)) is None

    assert [runs_on(name) for name in ("sm75", "sm80", "sm90", "sm120")] == [False, True, True, True]
    assert why_stale(make_record(target="NVIDIA A10"), SEARCH) is not None


def test_engines_of_other_precisions_or_backends_are_none():
    others = [make_record(precision="fp32"), make_record(backend="tensorrt")]
    with pytest.raises(BackendError, match="there is no tensorrt-rtx:fp16 engine; on this machine run"):
        find_engine(others, SEARCH)
    assert find_engine([*others, make_record()], SEARCH) == make_record()
    wanted = dataclasses.replace(SEARCH, choice=BackendChoice("tensorrt", "fp16"))
    assert find_engine(others, wanted).backend == "tensorrt"


def test_an_engine_is_looked_for_with_the_hash_of_its_graph(make_bundle, tmp_path):
    bundle = make_bundle("compact-x4", tmp_path)
    model = open_model(bundle.path)
    search = make_search(model, BackendChoice("tensorrt", "fp32"), "11.0", SEARCH.gpu)
    assert search.graph_sha256 == bundle.manifest.graphs[0].sha256
    with pytest.raises(BackendError, match="has no fp16 graph to run with tensorrt, only fp32"):
        make_search(model, BackendChoice("tensorrt", "fp16"), "11.0", SEARCH.gpu)


def test_engines_of_a_lone_graph_are_looked_for_beside_it(exported, tmp_path):
    path = tmp_path / "theirs.onnx"
    path.write_bytes(exported("compact-x4").path.read_bytes())
    model, choice = open_model(path), BackendChoice("tensorrt-rtx", "fp32")
    search = make_search(model, choice, "1.7.1", SEARCH.gpu)
    assert search.graph_sha256 == sha256_of(path)
    assert search.rebuild == f"sr-deploy build {path} --backend tensorrt-rtx"
    folder = find_engine_folder(model, choice)
    assert folder.path == tmp_path / "theirs.engines"
    assert folder.engines() == ()
    with pytest.raises(BackendError, match=r"theirs\.onnx has no fp16 graph .* tensorrt-rtx, only fp32"):
        make_search(model, BackendChoice("tensorrt-rtx", "fp16"), "1.7.1", SEARCH.gpu)


def test_the_profile_tuned_nearest_is_chosen():
    from sr_deploy.backends.tensorrt.runner import choose_profile

    profiles = [
        parse_profile("tile=1x64x64,1x256x256,4x512x512"),
        parse_profile("frame=1x64x64,1x720x1280,1x1080x1920"),
    ]
    assert choose_profile(profiles, Shape(1, 64, 64)) == 0
    assert choose_profile(profiles, Shape(1, 500, 1500)) == 1
    assert choose_profile(profiles, Shape(1, 400, 500)) == 0  # 3.1 times the pixels of the one, a 4.6th of the other
    assert choose_profile(profiles, Shape(1, 512, 512)) == 1
    with pytest.raises(ShapeError, match="8x64x64 lies outside every profile: tile="):
        choose_profile(profiles, Shape(8, 64, 64))


def test_an_engine_that_does_not_load_is_an_error_with_the_way_out(tmp_path):
    sdk = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install 'sr-deploy[rtx]')")
    from sr_deploy.backends.tensorrt.open_engine import load_engine

    path = tmp_path / "broken.engine"
    path.write_bytes(b"no engine" * 100)
    with pytest.raises(BackendError, match=r"cannot load .*broken.engine \(.*Serialization"):
        load_engine(sdk, path, EngineTrust(elsewhere=True))
