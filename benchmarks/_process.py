"""What a peer can tell of its own process."""

from __future__ import annotations

import os
import sys
import threading


def resident_bytes() -> int:
    """Memory that this process has now, or, where the system does not tell, the most that it ever had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # not on Windows, where there is no figure

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def threads() -> int:
    """Threads of this process: all that the system knows of where it tells, else those that Python started."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
