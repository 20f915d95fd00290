import json

import pytest
from pydantic import ValidationError

from sr_deploy.bundle import Certificate, CertificateEntry, Check, FileRecord, Measurement
from sr_deploy.bundle.documents import read_record
from sr_deploy.bundle.shortfall import describe_failure, find_worst
from sr_deploy.errors import DamagedBundleError


def make_check(findings=(), sha256="a" * 64, **changes):
    fields = {"kind": "weights", "file": "m.onnx", "what": "looked", "checked_at": "2026-01-01"}
    return Check(**(fields | {"findings": findings, "sha256": sha256} | changes))


def wrong_lines(certificate):
    return [line for check in certificate.checks for line in check.findings]


def test_a_finding_goes_when_the_same_check_finds_nothing_or_the_file_is_another():
    found = Certificate().with_checks([make_check(("w is off",))])
    assert wrong_lines(found) == ["w is off"]
    assert wrong_lines(found.with_checks([make_check()])) == []
    assert wrong_lines(found.with_checks([make_check(sha256="b" * 64)])) == []
    assert wrong_lines(found.with_checks([make_check(file="other.onnx")])) == ["w is off"]
    assert wrong_lines(found.with_checks([make_check(kind="precision")])) == ["w is off"]


def test_what_a_deep_check_found_is_not_cleared_by_a_shallow_one_nor_by_none():
    found = Certificate().with_checks([make_check(("w is off",), depth=1)])
    shallow = found.with_checks([make_check()])
    assert wrong_lines(shallow) == ["w is off"]
    assert len(shallow.checks) == 2
    assert len(shallow.with_checks([make_check()]).checks) == 2  # the shallow ones do not pile up
    skipped = shallow.with_checks([make_check(depth=1, not_checked="the exporter is not installed")])
    assert wrong_lines(skipped) == ["w is off"]
    cleared = skipped.with_checks([make_check(depth=1)])
    assert wrong_lines(cleared) == []
    assert len(cleared.checks) == 1


def make_entry(psnrs, sha256="a" * 64, **changes):
    """One measurement for each shape."""
    measurements = tuple(
        Measurement(shape=shape, content="noise", max_abs=0.1, psnr_db=psnr_db, changed_8bit=0.5)
        for shape, psnr_db in psnrs.items()
    )
    fields = {
        "artifact": FileRecord(file="m.onnx", sha256=sha256), "precision": "fp16", "backend": "onnxruntime:fp16",
        "backend_version": "1", "machine": "cpu", "reference": "torch:fp32", "reference_sha256": "b" * 64,
        "measured_at": "2026-01-01", "thresholds": {"psnr_db": 55.0}, "measurements": measurements,
        "worst_max_abs": 0.1, "worst_psnr_db": min(psnrs.values()), "passed": min(psnrs.values()) >= 55,
    }  # fmt: skip
    return CertificateEntry(**(fields | changes))


FAILED = make_entry({"1x64x64": 70.0, "1x512x512": 21.0})


@pytest.mark.parametrize(
    ("newer", "stays"),
    [
        (make_entry({"1x64x64": 70.0}), True),  # the input that it failed on was left out
        (make_entry({"1x64x64": 70.0, "1x512x512": 70.0}), False),
        (make_entry({"1x64x64": 70.0}, sha256="c" * 64), False),  # another file
        (make_entry({"1x64x64": 40.0}), False),  # which is as bad
    ],
)
def test_a_failure_is_replaced_by_what_was_shown_the_same_inputs(newer, stays):
    certificate = Certificate().with_entry(FAILED).with_entry(newer)
    assert certificate.entries == ((FAILED,) if stays else (newer,))


def test_shortfalls_are_what_was_judged_and_what_is_infinite():
    assert [one.shape for one in FAILED.shortfalls] == ["1x512x512"]
    assert make_entry({"1x64x64": 70.0}).sound
    assert not make_entry({"1x64x64": 70.0}, passed=False).sound
    assert not make_entry({"1x64x64": 70.0}, measurements=()).sound
    wild = Measurement(shape="1x8x8", content="flat", max_abs=float("inf"), psnr_db=0.0, changed_8bit=1.0)
    entry = make_entry({"1x64x64": 70.0}, judged=("noise",))
    assert entry.sound
    assert entry.model_copy(update={"measurements": (*entry.measurements, wild)}).shortfalls == (wild,)


@pytest.mark.parametrize(
    ("part", "document", "message"),
    [
        ("error_budgets", {"stages": []}, "error_budgets.0.stages: Tuple should have at least 1 item"),
        ("error_budgets", {"measured_at": "now"}, "error_budgets.0.measured_at: Invalid isoformat string"),
        ("checks", {"checked_at": "never"}, "checks.0.checked_at: Invalid isoformat string"),
        ("checks", {"sha256": "0"}, "checks.0.sha256: String should match"),
        ("checks", {"file": "../m.onnx"}, "checks.0.file: '../m.onnx' leads out of its folder"),
        ("checks", {"file": "/m.onnx"}, "checks.0.file: '/m.onnx' leads out of its folder"),
    ],
)
def test_what_no_certificate_can_say_is_damage(tmp_path, part, document, message):
    stage = {"name": "a", "runs": "b", "psnr_db": None, "step_psnr_db": None, "truth_psnr_db": 30.0, "lost_db": 0.0}
    sound = {"file": "m.onnx", "sha256": "a" * 64}
    parts = {
        "checks": {**sound, "kind": "weights", "what": "looked", "checked_at": "2026-01-01"},
        "error_budgets": {
            **sound, "precision": "fp16", "machine": "", "inputs": "", "measured_at": "2026-01-01", "stages": [stage]
        },
    }  # fmt: skip
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps({"schema_version": 1, part: [parts[part]]}))
    read_record(path, Certificate)
    path.write_text(json.dumps({"schema_version": 1, part: [{**parts[part], **document}]}))
    with pytest.raises(DamagedBundleError, match=message):
        read_record(path, Certificate)


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ({"max_abs": 0.0}, "off by 1.0e-01, 0.0e+00 allowed"),
        ({"psnr_db": 1e300}, "where 1000000"),  # its power of ten is no float
        ({"max_abs": 0.0, "psnr_db": 1e300}, "0.0e+00 allowed, 70.0 dB where"),
    ],
)
def test_a_shortfall_is_told_whatever_was_asked(thresholds, said):
    entry = make_entry({"1x64x64": 70.0, "1x8x8": 21.0}, thresholds=thresholds)
    assert said in describe_failure(entry)
    exact = Measurement(shape="1x8x8", content="noise", max_abs=0.0, psnr_db=None, changed_8bit=0.0)
    assert find_worst(make_entry({"1x8x8": 1.0}, thresholds=thresholds, measurements=(exact,))) == (exact, exact)


def test_no_psnr_beyond_what_float64_holds_is_read():
    rounding = {"max_abs": 0.0, "psnr_db": 1e9}  # no logarithm of what this allows exists
    for change in ({"psnr_db": 1e9}, {"needed_db": 1e9}, {"fp32_rounding": rounding}):
        with pytest.raises(ValidationError, match="less than or equal to 3000"):
            Measurement.model_validate({"shape": "1x8x8", "content": "noise", "max_abs": 0.1, "psnr_db": 70.0,
                                        "changed_8bit": 0.5} | change)  # fmt: skip
