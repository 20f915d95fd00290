"""The command line: one file per command, registered in `app`.

Only Python's own modules are imported here and in what catches errors: a library that does not load is an error like
any other.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Nothing is raised, and no traceback printed unless `SR_DEPLOY_TRACEBACK=1` asks for it.

    Args:
        arguments: words after `sr-deploy`; those of the process if None.

    Returns:
        0 done, 1 the user's input or machine, 2 usage, 3 verification failed or regression found, 4 verification
        incomplete, 130 interrupted.
    """
    from sr_deploy.cli.net import run_guarded

    words = list(sys.argv[1:] if arguments is None else arguments)

    def run_command() -> int:
        from sr_deploy.cli.app import run_words

        return run_words(words)

    return run_guarded(run_command, as_json="--json" in words)


def run() -> None:
    """Entry point of the `sr-deploy` script."""
    # Where `main` does not listen, Ctrl-C just ends the process: while Python starts, and while it ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

    from sr_deploy.cli.net import INTERRUPTED
    from sr_deploy.cli.streams import flush_for_the_end, open_missing_descriptors

    open_missing_descriptors()
    code = main()
    flush_for_the_end()
    if code == INTERRUPTED:
        # CPython remembers an interruption that came inside `exec` of a string, as dataclasses are made, and would end
        # by the signal in place of this code.
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)
