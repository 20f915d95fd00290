"""Notes which files a process touches, by Python's audit hooks. Nothing but the standard library: children run it too.

A child process has it by a `sitecustomize.py` that runs this file; the log's name comes from the environment.
"""

from __future__ import annotations

import os
import sys

LOG_VARIABLE = "AUDIT_WATCH_LOG"
# Where the name stands among the arguments of each event. `open` comes for reading too.
_EVENTS = {
    "open": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (0, 1),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.listdir": (0,),
    "os.scandir": (0,),
    "shutil.rmtree": (0,),
}
_READING = {"os.listdir", "os.scandir"}
_active = False


def watch(on: bool) -> None:
    """Begin or end; a hook cannot be removed."""
    global _active  # noqa: PLW0603 - a hook has no other place for it
    _active = on


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if not _active or event not in _EVENTS:
        return
    log = os.environ.get(LOG_VARIABLE)
    if log is None:
        return
    flags = arguments[2] if event == "open" and len(arguments) > 2 else 0
    writes = event != "open" or bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    kind = "reads" if event in _READING or not writes else "writes"
    for place in _EVENTS[event]:
        name = arguments[place]
        if isinstance(name, str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(name))
            if event == "open":
                path = os.path.realpath(path)
            else:  # these take the link itself, in a folder that may be reached by links
                path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            _write(log, f"{kind}\t{event}\t{path}\n")


def _write(log: str, line: str) -> None:
    watch(False)  # what is done here is not looked at
    try:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, line.encode(errors="replace"))
        os.close(handle)
    finally:
        watch(True)


sys.addaudithook(_note)
