"""What all tests share: no test reads or writes the user's own cache, and a network that no guard objects to."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import sr_deploy  # noqa: F401 - before any test: libraries beneath it are told to report nothing

if TYPE_CHECKING:
    from sr_deploy.arch.spec import ArchSpec

# Loopback, and one device that leads nowhere and counts what would have left the machine.
_WITHOUT_ROUTE = """
set -e
ip link set lo up
ip link add out0 type veth peer name sink0
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 2> /dev/null || true
ip link set sink0 up
ip link set out0 up arp off
ip address add 192.0.2.1/24 dev out0
ip route add default dev out0
code=0
"$@" || code=$?
set -- $(sed -n 's/.*out0: *//p' /proc/self/net/dev)
echo "$code ${10}" > "$FIGURES"
"""

# Where one of these is set ONNX Runtime reports nothing by itself.
_CI = {
    "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID",
    "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER",
}  # fmt: skip


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests of one file run in one process under xdist: what a file makes for all its tests is made once."""
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(item.location[0]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[pytest.TestReport]:
    """What a test logged may name files that are no UTF-8, and xdist's processes exchange nothing else."""
    report: pytest.TestReport = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


class Alone(NamedTuple):
    """What a command did where no network was."""

    code: int
    output: str
    packets: int
    """That it sent, to anything but loopback."""


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests of a process and what they start: `--backend auto` measures a network once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SR_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Scripts and commands that are called in this process choose what is logged: for themselves alone."""
    level = logging.getLogger("sr_deploy").level
    yield
    logging.getLogger("sr_deploy").setLevel(level)


@contextmanager
def hear_log() -> Iterator[list[str]]:
    """What sr-deploy says meanwhile, as commands show it, a line each."""
    lines: list[str] = []
    log, handler = logging.getLogger("sr_deploy"), logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@pytest.fixture(scope="session")
def hear() -> Callable[[], AbstractContextManager[list[str]]]:
    """As `said`, for fixtures."""
    return hear_log


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What sr-deploy says during the test, as commands show it, a line each."""
    with hear_log() as lines:
        yield lines


@pytest.fixture(scope="session")
def write_network() -> Callable[..., Path]:
    """Writes a checkpoint of random weights times `gain`; takes the file and the spec of its network."""
    import torch

    from sr_deploy.arch.registry import build_network
    from sr_deploy.arch.weights import save_generator

    def write(path: Path, spec: ArchSpec, *, seed: int = 0, gain: float = 1.0) -> Path:
        torch.manual_seed(seed)
        state = build_network(spec).state_dict()
        save_generator(path, {key: gain * one if one.is_floating_point() else one for key, one in state.items()}, spec)
        return path

    return write


@pytest.fixture(scope="session")
def write_gentle_network(write_network: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a compact x2 network near bicubic, so that no guard objects; takes the file, features and blocks."""
    from sr_deploy.arch.spec import ArchSpec

    def write(path: Path, features: int = 24, blocks: int = 4) -> Path:
        spec = ArchSpec(architecture="compact", scale=2, features=features, blocks=blocks)
        return write_network(path, spec, gain=0.5)

    return write


@pytest.fixture(scope="session")
def run_without_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Alone]:
    """Runs a command in a network namespace of its own; takes its words, its folder and its environment."""
    figures = tmp_path_factory.mktemp("network") / "figures"
    reason = "Linux alone has network namespaces"
    for enter in (["unshare", "-n"], ["unshare", "-rn"]) if sys.platform == "linux" else ():
        try:
            _run_alone(enter, figures, ["true"], figures.parent)
        except OSError as error:  # no unshare, no ip (Debian: iproute2), or a container that does not let us
            reason = " ".join(str(error).split())
        else:
            return partial(_run_alone, enter, figures)
    pytest.skip(f"no network namespace can be made here: {reason}")


def _run_alone(
    enter: list[str], figures: Path, words: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ
) -> Alone:
    done = subprocess.run(
        [*enter, "sh", "-c", _WITHOUT_ROUTE, "sh", *words],
        cwd=folder,
        env={**environment, "FIGURES": str(figures)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if not figures.exists():
        raise OSError(done.stdout)
    code, packets = figures.read_text().split()
    figures.unlink()
    return Alone(int(code), done.stdout, int(packets))


@pytest.fixture(scope="session")
def newcomers_environment() -> Callable[[Path], dict[str, str]]:
    """Gives the environment of a user who has set nothing; takes the home folder."""

    def make(home: Path) -> dict[str, str]:
        ours = ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "SR_DEPLOY_CACHE", "PYTEST_CURRENT_TEST")
        others = {name for name in os.environ if name in _CI or name.startswith("XDG_")}
        kept = {name: value for name, value in os.environ.items() if name not in others and name not in ours}
        return {**kept, "HOME": str(home)}

    return make


@pytest.fixture(scope="session")
def lpips_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AlexNet and LPIPS's linear layers for it with random weights, as published files hold them."""
    import torch

    from sr_deploy.arch.lpips import _BACKBONES

    folder, convolutions = tmp_path_factory.mktemp("lpips"), _BACKBONES["AlexNet"]
    random = torch.Generator().manual_seed(1)
    backbone = {f"{one.key}.weight": torch.randn(one.shape, generator=random) * 0.05 for one in convolutions}
    backbone |= {f"{one.key}.bias": torch.zeros(one.shape[0]) for one in convolutions}
    linear = {
        f"lin{number}.model.1.weight": torch.rand(1, one.shape[0], 1, 1, generator=random)
        for number, one in enumerate(convolutions)
    }
    torch.save(backbone, folder / "alexnet.pth")
    torch.save(linear, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"
