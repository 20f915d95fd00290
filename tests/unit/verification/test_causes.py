import pytest

from sr_deploy.bundle import CertificateEntry, FileRecord, GraphRecord, Measurement
from sr_deploy.bundle.verdict import Failure
from sr_deploy.verification.agreement import describe_agreement, show_share
from sr_deploy.verification.causes import group_failures

GRAPHS = [
    GraphRecord(file=f"model.{precision}.onnx", sha256=digit * 64, precision=precision)
    for precision, digit in (("fp32", "1"), ("fp16", "2"), ("int8", "3"))
]


def fail(file, kind):
    return Failure(name=f"{file} ({kind})", file=file, sha256=None, kind=kind, lines=("off",), when="")


def group(*failures):
    return [(cause.name, [one.name for one in rest]) for cause, rest in group_failures(failures, GRAPHS)]


def test_what_a_wrong_fp32_graph_brings_about_stands_under_it():
    found = group(
        fail("model.fp32.onnx", "run"),
        fail("model.int8.onnx", "drop"),
        fail("model.fp16.onnx", "weights"),
        fail("certificate.json", "certificate"),
        fail("model.fp32.onnx", "weights"),
    )
    consequences = ["model.fp32.onnx (run)", "model.fp16.onnx (weights)", "model.int8.onnx (drop)"]
    assert found == [("model.fp32.onnx (weights)", consequences), ("certificate.json (certificate)", [])]


def test_a_wrong_fp16_graph_explains_nothing_of_the_others():
    found = group(fail("model.fp16.onnx", "run"), fail("model.int8.onnx", "run"), fail("model.fp16.onnx", "precision"))
    assert found == [("model.fp16.onnx (precision)", ["model.fp16.onnx (run)"]), ("model.int8.onnx (run)", [])]


def test_another_training_explains_nothing_that_is_consistent_in_itself():
    found = group(fail("model.fp16.onnx", "run"), fail("generator.safetensors", "source"))
    assert found == [("generator.safetensors (source)", []), ("model.fp16.onnx (run)", [])]


def make_entry(off, far, **changes):
    one = Measurement(
        shape="1x8x8", content="photograph", max_abs=0.1, psnr_db=39.0, changed_8bit=off, changed_8bit_more=far,
        mean_abs=1.9 / 255,
    )  # fmt: skip
    fields = {
        "artifact": FileRecord(file="model.int8.onnx", sha256="3" * 64), "precision": "int8",
        "backend": "openvino:int8", "backend_version": "1", "machine": "cpu", "reference": "torch:fp32",
        "reference_sha256": "b" * 64, "measured_at": "2026-01-01", "thresholds": {"psnr_db": 35.0},
        "measurements": (one,), "worst_max_abs": 0.1, "worst_psnr_db": 39.0, "passed": True,
    }  # fmt: skip
    return CertificateEntry(**(fields | changes))


@pytest.mark.parametrize(
    ("off", "far", "grade", "words"),
    [
        (0.0, 0.0, "ok", "the same 8-bit pictures"),
        (0.05, 0.0, "ok", "5 % of the samples one 8-bit step off, none by more"),
        (0.3, 0.008, "ok", "30 % of the samples off, 0.8 % by more than one 8-bit step"),
        (0.8, 0.59, "passes", "59 % of the samples more than one 8-bit step off, 1.9 steps on average"),
    ],
)
def test_agreement_is_said_in_words(off, far, grade, words):
    agreement = describe_agreement(make_entry(off, far))
    assert (agreement.grade, agreement.words) == (grade, words)


def test_what_an_entry_says_of_itself_does_not_make_it_pass():
    assert describe_agreement(make_entry(0.0, 0.0, thresholds={"psnr_db": 40.0})).grade == "FAILED"
    assert describe_agreement(make_entry(0.0, 0.0, passed=False)).grade == "FAILED"
    assert describe_agreement(make_entry(0.0, 0.0, measurements=())).grade == "FAILED"


def test_shares_are_never_nothing_of_something():
    shown = [show_share(share) for share in (0, 1e-7, 0.00012, 0.0551, 0.59, 0.9999, 1)]
    assert shown == ["0 %", "under 0.001 %", "0.012 %", "5.5 %", "59 %", "over 99 %", "100 %"]
