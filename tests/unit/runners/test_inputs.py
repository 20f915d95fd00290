import numpy as np
import pytest

from sr_deploy.bundle import Shape, Thresholds
from sr_deploy.measure.compare import Comparison
from sr_deploy.model import open_model
from sr_deploy.runners.inputs import photograph_batch
from sr_deploy.runners.parity import describe_reference, open_reference
from sr_deploy.runners.threads import default_threads


def test_photographs_are_photographs_and_always_the_same():
    batch = photograph_batch(Shape(3, 37, 53), 3, 4)
    assert batch.shape == (3, 3, 37, 53)
    assert batch.dtype == np.float32
    assert batch.min() >= 0
    assert batch.max() <= 1
    np.testing.assert_array_equal(batch, photograph_batch(Shape(3, 37, 53), 3, 4))
    assert not np.array_equal(batch[0], batch[1])
    for image in batch:
        assert image.std() > 0.05  # something is to be seen
        assert np.corrcoef(image[:, :-1].ravel(), image[:, 1:].ravel())[0, 1] > 0.5  # and it is no noise


def test_gray_is_the_luma_of_the_same_picture():
    color, gray = photograph_batch(Shape(1, 20, 20), 3, 2), photograph_batch(Shape(1, 20, 20), 1, 2)
    expected = 0.299 * color[0, 0] + 0.587 * color[0, 1] + 0.114 * color[0, 2]
    np.testing.assert_allclose(gray[0, 0], expected, atol=1e-6)


def test_a_photograph_that_is_too_small_is_continued_by_mirroring():
    batch = photograph_batch(Shape(1, 700, 1000), 3, 4)
    assert batch.shape == (1, 3, 700, 1000)
    assert batch[0, :, -10:, -10:].std() > 0


@pytest.mark.parametrize(
    ("comparison", "met"),
    [
        (Comparison(1e-5, 100.0, 0.0), True),
        (Comparison(1.1e-5, 120.0, 0.0), False),
        (Comparison(1e-6, 99.9, 0.0), False),
        (Comparison(0.0, None, 0.0), True),
        (Comparison(float("inf"), 0.0, 1.0), False),
    ],
)
def test_both_thresholds_have_to_be_met(comparison, met):
    assert Thresholds(max_abs=1e-5, psnr_db=100).met_by(comparison) is met


def test_an_infinite_error_meets_nothing():
    assert not Thresholds().met_by(Comparison(float("inf"), None, 0.0))
    assert Thresholds(psnr_db=40).as_dict() == {"psnr_db": 40}


def test_the_reference_of_a_graph_is_the_graph_as_written(exported):
    model = open_model(exported("compact-x4").path)
    reference = describe_reference(model)
    assert reference.title == "onnxruntime:fp32, graph as written"
    with open_reference(model) as runner:
        assert runner.spec.device == "cpu"
        assert runner.infer(np.zeros((1, 3, 4, 4), np.float32)).shape == (1, 3, 16, 16)


def test_threads_follow_the_processors_and_omp_num_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    everything = default_threads()
    assert everything >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads() == 1
    for value in ("0", "4,2", "9999"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert default_threads() == everything
