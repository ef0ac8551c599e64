"""Replace this process by a command that is killed when the process that started it ends, however that ends.

``python -m benchmarks.serve.launch COMMAND ...``. Only Linux can; elsewhere the
command lives on if its parent is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); it stays over exec


def main() -> None:
    """Run the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
