"""Runners: one protocol over every backend. `open_runner(model, "openvino:bf16")` is the door."""

from __future__ import annotations

from sr_deploy.runners.choose import open_runner, runnable_choices, why_not_runnable

__all__ = ["open_runner", "runnable_choices", "why_not_runnable"]
