import hashlib
import json
import os

import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import (
    Certificate,
    CertificateEntry,
    EngineRecord,
    FileRecord,
    GraphRecord,
    Manifest,
    Measurement,
    SourceRecord,
    creating_bundle,
    engine_key,
    find_newest_bundle,
    holding_bundle,
    open_bundle,
    parse_profile,
    record_file,
)
from sr_deploy.bundle.engine_folder import engines_of_graph
from sr_deploy.errors import BundleError, DamagedBundleError, LockedError, NothingFoundError

PROFILE = parse_profile("tile=1x8x8,1x16x16,1x32x32")
ENGINE = hashlib.sha256(b"engine").hexdigest()


def make_bundle(path, created_at="2026-01-01T00:00:00"):
    """A bundle whose files are a few bytes: what is tested here never looks inside them."""
    with creating_bundle(path) as folder:
        (folder / "generator.safetensors").write_bytes(b"weights")
        (folder / "model.fp32.onnx").write_bytes(b"graph")
        graph = record_file(folder, "model.fp32.onnx")
        manifest = Manifest(
            name=path.name,
            created_at=created_at,
            arch=ArchSpec(architecture="compact", scale=4, features=8, blocks=2),
            source=SourceRecord(file="x.pth", sha256="0" * 64, layout="compact"),
            reference=record_file(folder, "generator.safetensors"),
            graphs=(GraphRecord(file=graph.file, sha256=graph.sha256, precision="fp32"),),
            profiles=(PROFILE,),
            tools={"torch": "2"},
        )
        (folder / "bundle.json").write_text(manifest.model_dump_json())
    return open_bundle(path)


def make_entry(bundle, **changes):
    fields = {
        "artifact": record_file(bundle.path, "model.fp32.onnx"),
        "precision": "fp32",
        "backend": "onnxruntime:fp32",
        "backend_version": "1",
        "machine": "here",
        "reference": "torch:fp32",
        "reference_sha256": bundle.manifest.reference.sha256,
        "measured_at": "2026-01-01T00:00:00",
        "thresholds": {"max_abs": 1e-5},
        "measurements": (Measurement(shape="1x8x8", content="photograph", max_abs=0, psnr_db=None, changed_8bit=0),),
        "worst_max_abs": 0,
        "worst_psnr_db": None,
        "passed": True,
    }
    return CertificateEntry(**(fields | changes))


def make_record(bundle, key="0123456789abcdef"):
    return EngineRecord(
        key=key,
        graph_sha256=bundle.manifest.graphs[0].sha256,
        precision="fp32",
        backend="tensorrt-rtx",
        backend_version="1.7",
        target="sm86",
        profiles=(PROFILE,),
        flags={},
        engine=FileRecord(file=f"engines/{key}.engine", sha256="4b8a1c14" + "0" * 56),
        layer_precisions={"FLOAT": 3},
        inspected="not inspected: no GPU",
        build_seconds=1.0,
        built_at="2026-01-01T00:00:00",
    )


def test_bundle_reads_back(tmp_path):
    bundle = make_bundle(tmp_path / "demo")
    assert bundle.precisions == ("fp32",)
    assert bundle.graph("fp32").read_bytes() == b"graph"
    assert bundle.reference.read_bytes() == b"weights"
    assert bundle.engines() == ()
    assert bundle.certificate() == Certificate()
    with pytest.raises(BundleError, match=r"no fp16 graph, only fp32; .*sr-deploy export --fp16"):
        bundle.graph("fp16")


@pytest.mark.parametrize("name", ["model.fp32.onnx", "generator.safetensors"])
def test_changed_and_missing_files_are_found_at_opening(tmp_path, name):
    bundle = make_bundle(tmp_path / "demo")
    (bundle.path / name).write_bytes(b"tampered")
    with pytest.raises(BundleError, match=rf"{name} was changed after it was recorded"):
        open_bundle(bundle.path)
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=rf"is incomplete: {name} is missing"):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "bundle.json is damaged"),
        ("[]", "it states no schema version"),
        ('{"schema_version": 2}', "schema version 2; this sr-deploy reads version 1"),
        ('{"schema_version": 1}', "bundle.json is damaged: name: Field required"),
    ],
)
def test_damaged_manifest(tmp_path, text, message):
    bundle = make_bundle(tmp_path / "demo")
    (bundle.path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle.path)


def test_no_bundle_is_said(tmp_path):
    with pytest.raises(BundleError, match=r"not a bundle: it has no bundle.json; .*sr-deploy export"):
        open_bundle(tmp_path)


def test_block_without_a_manifest_makes_no_bundle(tmp_path):
    with pytest.raises(BundleError), creating_bundle(tmp_path / "x") as folder:
        (folder / "model.onnx").write_bytes(b"")
    assert os.listdir(tmp_path) == []


def test_a_half_written_record_is_no_engine_and_goes_when_somebody_writes(tmp_path):
    bundle = make_bundle(tmp_path / "demo")
    (bundle.path / "engines").mkdir()
    for place in (bundle.path, bundle.path / "engines"):
        (place / ".partial-abcdefgh.json").write_text("{")
    assert bundle.engines() == bundle.intact_engines() == ()
    with bundle.writing():
        assert sorted(os.listdir(bundle.path / "engines")) == []
        with (
            pytest.raises(LockedError, match=r"demo is being written by another sr-deploy \(process"),
            bundle.writing(),
        ):
            pass
    assert not [path for path in bundle.path.rglob("*") if path.name.startswith(".")]


def test_a_bundle_that_somebody_writes_into_is_not_replaced(tmp_path):
    bundle = make_bundle(tmp_path / "demo")
    with bundle.writing(), pytest.raises(LockedError, match="demo is being written by"), holding_bundle(bundle.path):
        pass
    with holding_bundle(bundle.path), pytest.raises(LockedError, match="demo is being written by"), bundle.writing():
        pass
    with holding_bundle(tmp_path / "new"):
        with pytest.raises(LockedError, match="new is being written by"), holding_bundle(tmp_path / "new"):
            pass
        made = make_bundle(tmp_path / "new")
        with made.writing():
            assert open_bundle(made.path) == made
    assert sorted(os.listdir(tmp_path)) == ["demo", "new"]


def test_newest_goes_by_the_manifest_not_by_file_times(tmp_path):
    newer = make_bundle(tmp_path / "a", created_at="2026-03-01T00:00:00")
    older = make_bundle(tmp_path / "b", created_at="2026-02-01T00:00:00")
    os.utime(older.path / "bundle.json", (4e9, 4e9))
    assert find_newest_bundle(tmp_path) == newer.path
    with pytest.raises(NothingFoundError, match="no bundle in"):
        find_newest_bundle(tmp_path / "a")


def test_certificate_is_bound_to_its_files(tmp_path):
    bundle = make_bundle(tmp_path / "demo")
    certificate = Certificate().with_entry(make_entry(bundle))
    bundle.write_certificate(certificate)
    assert bundle.certificate() == certificate
    other = make_bundle(tmp_path / "other")
    other.write_certificate(Certificate().with_entry(make_entry(other, reference_sha256="f" * 64)))
    with pytest.raises(BundleError, match=r"measured against other weights .*sr-deploy verify"):
        other.certificate()
    foreign = make_entry(bundle, artifact=FileRecord(file="model.fp32.onnx", sha256="f" * 64))
    bundle.write_certificate(Certificate().with_entry(foreign))
    with pytest.raises(BundleError, match="was changed after it was recorded"):
        bundle.certificate()


def test_new_entry_replaces_the_same_file_backend_and_machine(tmp_path):
    bundle = make_bundle(tmp_path / "demo")
    certificate = Certificate().with_entry(make_entry(bundle)).with_entry(make_entry(bundle, machine="there"))
    certificate = certificate.with_entry(make_entry(bundle, passed=False))
    assert [(entry.machine, entry.passed) for entry in certificate.entries] == [("there", True), ("here", False)]


def test_engine_whose_bytes_changed_is_refused(tmp_path):
    import hashlib

    bundle = make_bundle(tmp_path / "demo")
    sha256 = hashlib.sha256(b"engine").hexdigest()
    record = make_record(bundle).model_copy(
        update={"engine": FileRecord(file="engines/0123456789abcdef.engine", sha256=sha256)}
    )
    bundle.add_engine(record, b"engine")
    assert bundle.engines() == (record,)
    assert json.loads((bundle.path / "engines" / "0123456789abcdef.json").read_text())["key"] == "0123456789abcdef"
    (bundle.path / "engines" / "0123456789abcdef.engine").write_bytes(b"engin")
    with pytest.raises(BundleError, match=r"0123456789abcdef.engine was changed"):
        bundle.engines()


def test_key_changes_with_every_ingredient():
    base = {
        "graph_sha256": "a" * 64,
        "backend": "tensorrt-rtx",
        "backend_version": "1.7",
        "target": "sm86",
        "profiles": (PROFILE,),
        "flags": {"optimization_level": "3", "tf32": "off"},
    }
    changes = [
        {"graph_sha256": "b" * 64},
        {"backend": "tensorrt"},
        {"backend_version": "1.8"},
        {"target": "sm89"},
        {"profiles": (parse_profile("tile=1x8x8,1x16x16,1x32x33"),)},
        {"flags": {"optimization_level": "3", "tf32": "on"}},
    ]
    keys = {engine_key(**(base | change)) for change in [{}, *changes]}
    assert len(keys) == 7
    reordered = base | {"flags": {"tf32": "off", "optimization_level": "3"}}
    assert engine_key(**reordered) == engine_key(**base)


def test_engines_beside_a_graph_lie_in_a_folder_and_behind_no_link(tmp_path):
    graph, outside = tmp_path / "net.onnx", tmp_path / "outside"
    graph.write_bytes(b"graph")
    assert engines_of_graph(graph).engines() == ()
    (tmp_path / "net.engines").symlink_to(outside)
    with pytest.raises(DamagedBundleError, match=r"net\.engines is a link; put a folder there, or nothing"):
        engines_of_graph(graph)


@pytest.mark.parametrize("name", ["engines", "caches"])
def test_engines_and_caches_are_folders(tmp_path, name):
    bundle = make_bundle(tmp_path / "demo")
    (bundle.path / name).write_text("no folder")
    with pytest.raises(DamagedBundleError, match=f"{name} has to be a folder, and is none; remove it"):
        open_bundle(bundle.path)


def test_a_record_under_another_engines_name_is_damage(tmp_path):
    bundle = make_bundle(tmp_path / "demo")
    record = make_record(bundle)
    bundle.add_engine(
        record.model_copy(update={"engine": FileRecord(file=record.engine.file, sha256=ENGINE)}), b"engine"
    )
    (bundle.path / "engines" / "fedcba9876543210.json").symlink_to(f"{record.key}.json")
    with pytest.raises(DamagedBundleError, match=rf"fedcba9876543210\.json is .* of engines/{record.key}"):
        bundle.engines()
    assert [one.key for one in bundle.intact_engines()] == [record.key]


@pytest.mark.parametrize("name", ["certificate.json", "certificate.html", ".lock"])
def test_what_commands_write_to_is_a_plain_file_or_nothing(tmp_path, name):
    bundle = make_bundle(tmp_path / "demo")
    os.mkfifo(bundle.path / name)
    with pytest.raises(DamagedBundleError, match=f"{name} has to be a plain file, and is none; remove it"):
        open_bundle(bundle.path)
    (bundle.path / name).unlink()
    (bundle.path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(DamagedBundleError, match=f"{name} is a link that leads out of"):
        open_bundle(bundle.path)
