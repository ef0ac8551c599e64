"""The command line: ``python -m benchmarks [command] [options]``."""

import os
import signal
import sys


def _main() -> None:
    """Run the command. An interrupt or SIGTERM ends it and every process that it started."""
    # Imported here: a process that the benchmarks start imports this file too, and measures its own memory.
    from benchmarks.commands import main
    from models.minilm import MiniLMNotFoundError
    from poprt.errors import PoprtError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (PoprtError, MiniLMNotFoundError) as error:
        sys.exit(f"python -m benchmarks: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # threads that still compute are not waited for


if __name__ == "__main__":
    _main()
