import pytest

from sr_deploy.bundle.thresholds import DEFAULT_THRESHOLDS, Looser, Thresholds, list_looser


@pytest.mark.parametrize(
    ("precision", "stated", "lines"),
    [
        ("fp16", {"psnr_db": 10.0, "max_abs": 0.05}, ["fp16 needs 10 dB, the default is 55 dB"]),
        ("fp16", {"psnr_db": 60.0, "max_abs": 0.01}, []),
        ("fp16", {"psnr_db": 55.0}, ["fp16 allows any difference, the default is 0.05"]),
        ("fp32", {}, ["fp32 needs no PSNR, the default is 100 dB", "fp32 allows any difference, the default is 1e-05"]),
        ("fp32", {"psnr_db": 100.0, "max_abs": 0.1}, ["fp32 allows a difference of 0.1, the default is 1e-05"]),
        ("bf16", {"psnr_db": 38.0}, []),
        ("int8", {"psnr_db": 24.9}, ["int8 needs 24.9 dB, the default is 25 dB"]),
    ],
)
def test_what_asks_for_less_than_the_default_is_named(precision, stated, lines):
    assert list(map(str, list_looser({precision: Thresholds(**stated)}, [precision]))) == lines


def test_a_precision_without_thresholds_has_the_defaults():
    assert list(list_looser({}, list(DEFAULT_THRESHOLDS))) == []
    assert list(list_looser({"fp16": Thresholds()}, ["fp32"])) == []  # of a graph that is not there


def test_budgets_of_int8_are_said_in_their_own_words():
    assert str(Looser("int8", "max_drop_db", 2.0, 0.05)) == "int8 may lose 2 dB, the default is 0.05 dB"
    assert str(Looser("int8", "max_pixel_error", 0.5, 0.25)) == "int8 allows a difference of 0.5, the default is 0.25"
