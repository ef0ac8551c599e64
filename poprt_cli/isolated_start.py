"""The first thing that an isolated process does: it limits itself. Only where `resource` exists, so not on Windows."""

from __future__ import annotations

import os
import resource

from poprt_cli.executor import main


def start(megabytes: int, seconds: int) -> None:
    """Limit this process, then run the command that its arguments name.

    Limits come after the imports: what python and numpy map at start counts all the same.
    """
    limits = {
        resource.RLIMIT_AS: megabytes << 20,
        resource.RLIMIT_CPU: seconds * (os.cpu_count() or 1),
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))
    main()
