"""The other end of `worker`: a candidate in its own process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from typing import Any, Self

from sr_deploy import errors
from sr_deploy.bench.messages import DeviceAnswer, OpenAnswer, OpenRequest, TurnKind
from sr_deploy.errors import BackendError


class Candidate:
    """A backend that was loaded in a process of its own and waits for its turns."""

    def __init__(self, title: str, request: OpenRequest) -> None:
        """Start the process, load, warm up.

        Raises:
            SrDeployError: the worker's own error (a backend or a shape that does not run), or that it died.
        """
        self.title = title
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115 - closed with the process
        # -P: whatever lies in the current folder must not be imported in place of a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sr_deploy.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        try:
            self.opened: OpenAnswer = self._ask(dict(request))
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """Of the worker."""
        return self._process.pid

    def take_turn(self, calls: int, primed: bool, kind: TurnKind) -> list[float]:
        """Seconds of each of `calls` calls.

        Raises:
            BackendError: it failed.
        """
        seconds: list[float] = self._ask({"calls": calls, "primed": primed, "kind": kind})
        return seconds

    def measure_peak(self) -> float:
        """Greatest resident memory up to now, in MiB."""
        peak: float = self._ask({"tell": "peak"})
        return peak

    def tell_device(self) -> DeviceAnswer | None:
        """Of all calls so far that were timed on a GPU one by one; None where there is none."""
        answer: DeviceAnswer | None = self._ask({"tell": "device"})
        return answer

    def close(self) -> None:
        """End the process, and with it what it holds on a GPU; a second time does nothing."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it may have ended already
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> Any:  # noqa: ANN401 - the answer of the request, typed by the callers
        if self._process.stdin is None or self._process.stdout is None:
            raise BackendError(f"internal: {self.title} was started without pipes")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BackendError(f"{self.title} ended without an answer: {self._last_words()}")
        document = json.loads(line)
        if "error" in document:
            raise getattr(errors, document["kind"])(document["error"])
        return document["answer"]

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        if lines:
            return lines[-1]
        return f"signal {-code} (9: the system was out of memory)" if code < 0 else f"exit code {code}"
