"""Runs one case after the other, each in a process of its own with limits, and says how it ended.

A server imports what commands need once and forks for each case, so that a case costs milliseconds, not seconds. It
reads one JSON document a line from standard input (`folder`, `words`), and writes one a line (`Ending`).
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS = 10.0
"""Processor time that a case may take."""
WALL_SECONDS = 60.0
"""Time after which a case is killed: more, since these machines do other work too."""
MIB = 1024
"""Memory that a case may take beyond what the imports take."""
_SAFETY_MIB = 6 * 1024
_HEAVY = (
    "onnxruntime", "onnxscript", "torch.export", "torch._dynamo", "torch.onnx._internal.exporter", "networkx",
    "PIL.Image", "pyvips", "av", "scipy.signal", "skimage", "rich.table", "rich.progress",
)  # fmt: skip
"""What commands import when they need it."""
_LONGEST_LINE = 2000
_MOST_LINES = 60
_SURPRISE = re.compile(r"^error: (in a thread .*: )?internal: ", re.MULTILINE)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")
_EXIT_CODES = range(5)


@dataclass(frozen=True)
class Ending:
    """How a case ended."""

    outcome: str
    """`taken` (exit code 0), `refused` (1 to 4 and a line that says why) or `fault`."""
    reason: str
    """For faults: what was wrong. Else empty."""
    code: int
    """Exit code; negative: the signal that ended the process."""
    seconds: float
    """Processor time."""
    mib: float
    """Memory beyond that of the server, at its peak."""
    said: str
    """The end of what it wrote to stderr."""


def run_case(folder: Path, words: list[str]) -> Ending:
    """Run a command in a child; it sees `folder` as its working folder."""
    # Not `getrusage`: a process keeps there the peak of the program that started it.
    base = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    sys.stdout.flush()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run_and_leave(folder, words)
    status, usage = _wait(pid, begun)
    seconds = usage.ru_utime + usage.ru_stime
    mib = max(usage.ru_maxrss - base, 0) / 1024
    code = os.waitstatus_to_exitcode(status)
    said = (folder / "stderr.txt").read_text(errors="replace") if (folder / "stderr.txt").exists() else ""
    reason = _find_fault(code, seconds, mib, said)
    outcome = "fault" if reason else "taken" if code == 0 else "refused"
    return Ending(outcome, reason, code, round(seconds, 2), round(mib), said[-1500:])


def _find_fault(code: int, seconds: float, mib: float, said: str) -> str:
    lines = said.splitlines()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code not in _EXIT_CODES:
        return f"exit code {code}"
    if _SURPRISE.search(said):
        return "an exception that nobody foresaw"
    if "Traceback (most recent call last)" in said:
        return "a traceback"
    if code and not any(line.startswith("error: ") for line in lines) and code != 3:
        return f"exit code {code} and no line that says why"
    if _CONTROLS.search(said):
        return "control characters on the terminal"
    if len(lines) > _MOST_LINES or max(map(len, lines), default=0) > _LONGEST_LINE:
        return f"{len(lines)} lines, the longest of {max(map(len, lines), default=0)} characters"
    if seconds > SECONDS:
        return f"{seconds:.1f} s"
    return f"{mib:.0f} MiB" if mib > MIB else ""


def _wait(pid: int, begun: float) -> tuple[int, resource.struct_rusage]:
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        if time.monotonic() - begun > WALL_SECONDS:
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage
        time.sleep(0.002)


def _run_and_leave(folder: Path, words: list[str]) -> None:
    """In the child: run the command, and never come back."""
    code = 99
    try:
        os.chdir(folder)
        for number, name in ((0, os.devnull), (1, "stdout.txt"), (2, "stderr.txt")):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(name, flags, 0o600), number)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _SAFETY_MIB * 2**20, hard))
        resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 5, int(SECONDS) + 6))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from sr_deploy.cli import main

        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def serve() -> None:
    """Read cases from standard input until it ends."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import sr_deploy
    from sr_deploy.cli.app import build_command

    # All that is imported or made here is shared by every case.
    for module in pkgutil.walk_packages(sr_deploy.__path__, "sr_deploy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _HEAVY:
        importlib.import_module(name)
    build_command()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        case = json.loads(line)
        ending = run_case(Path(case["folder"]), case["words"])
        answers.write(json.dumps(asdict(ending)) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
