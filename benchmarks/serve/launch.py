"""Replace this process by a command that is killed when the process that started it ends, however that ends.

``python -m benchmarks.serve.launch PARENT COMMAND ...``, with the number of the process that starts it. Only Linux can;
elsewhere the command lives on if its parent is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); it stays over exec


def main() -> None:
    """Run the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before
            return
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
