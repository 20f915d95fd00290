"""One small benchmark, measured once for all tests of the folder."""

import pytest

from sr_deploy.bench.run import bench_model
from sr_deploy.bundle import Shape


@pytest.fixture(scope="session")
def bundle(make_bundle, tmp_path_factory):
    return make_bundle("compact-x4", tmp_path_factory.mktemp("bench"), fp16=True)


@pytest.fixture(scope="session")
def report(bundle):
    return bench_model(
        bundle.path,
        shapes=[Shape(2, 24, 16)],
        choices=["onnxruntime", "onnxruntime:fp32+fixed", "tensorrt:fp16"],
        seconds_each=0.05,
        threads=1,
        command="sr-deploy bench",
    )


@pytest.fixture
def with_results(report):
    """Gives the report with some fields of each contender's result replaced."""

    def change(**by_contender):
        results = [
            result.model_copy(update=by_contender.get(result.contender.replace(":", "_").replace("+", "_"), {}))
            for result in report.results
        ]
        return report.model_copy(update={"results": tuple(results)})

    return change
