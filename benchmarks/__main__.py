"""The command line: ``python -m benchmarks [command] [options]``."""

from benchmarks.commands import main

if __name__ == "__main__":
    main()
