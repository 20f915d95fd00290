import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.bundle import Thresholds
from sr_deploy.measure.compare import compare_outputs
from sr_deploy.runners.io_conversion import compare_decoded, decode_output, encode_input, rounding_of, snap_input

WHOLE = {"uint8": 255, "uint16": 65535}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_8_bit_pictures_go_through_unchanged(dtype):
    lr = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(snap_input(lr, dtype), lr)
    encoded = encode_input(lr, dtype)
    assert (encoded.dtype, encoded.shape) == (dtype, (1, 16, 16, 1))
    np.testing.assert_array_equal(encoded.ravel(), np.arange(256) * (WHOLE[dtype] // 255))


def test_channels_change_places_with_the_pixels():
    lr = np.zeros((2, 3, 4, 5), np.float32)
    lr[1, 2, 3, 4] = 1
    encoded = encode_input(lr, "uint8")
    assert encoded.shape == (2, 4, 5, 3)
    assert encoded[1, 3, 4, 2] == 255
    assert encoded.sum() == 255
    assert encoded.flags.c_contiguous
    np.testing.assert_array_equal(decode_output(encoded), lr)


def test_what_lies_outside_is_clamped_and_ties_go_to_even():
    lr = np.array([-0.5, 0.5 / 255, 1.5 / 255, 2.0], np.float32).reshape(1, 1, 1, 4)
    assert encode_input(lr, "uint8").ravel().tolist() == [0, 0, 2, 255]


def test_float_io_is_left_alone_or_cast():
    lr = np.array([0.1, 1.7], np.float32).reshape(1, 1, 1, 2)
    assert encode_input(lr, "float32") is lr
    np.testing.assert_array_equal(snap_input(lr, "float16"), lr.astype(np.float16).astype(np.float32))
    assert rounding_of("float32") == 0


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "float16"]),
    error=st.sampled_from([1e-6, 1e-5, 1e-3, 0.02]),
    seed=st.integers(0, 2**16),
)
def test_what_met_the_thresholds_before_rounding_meets_the_widened_ones_after(dtype, error, seed):
    random = np.random.default_rng(seed)
    reference = random.uniform(-0.2, 1.2, (1, 3, 8, 8)).astype(np.float32)
    output = reference + random.uniform(-error, error, reference.shape).astype(np.float32)
    before = compare_outputs(output, reference)
    limits = Thresholds(max_abs=before.max_abs, psnr_db=before.psnr_db)
    after = compare_decoded(snap_input(output, dtype), reference, dtype)
    widened = limits.widened(rounding_of(dtype) + 1e-7)  # 1e-7: integers over 255 are rounded to float32
    assert widened.met_by(after)
    assert widened.max_abs == pytest.approx(limits.max_abs + rounding_of(dtype), abs=2e-7)


def test_thresholds_that_are_not_asked_stay_so():
    assert Thresholds(psnr_db=38).widened(0.5 / 255).as_dict() == {"psnr_db": pytest.approx(36.743, abs=1e-3)}
    assert Thresholds(max_abs=0.05).widened(0.0) == Thresholds(max_abs=0.05)
