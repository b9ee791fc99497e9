"""Time budgets: one monotonic deadline per public call, handed down as what remains of it."""

from __future__ import annotations

import math
import time
from typing import Optional, cast

# No wait is longer than this without looking again: threading refuses timeouts beyond its own maximum.
FOREVER = 3600.0 * 24 * 365

# 100 years: nothing that a server keeps is kept for longer. It counts nanoseconds since 1970 with 63 bits, and with the 292
# years that they can hold, a message would be over at once.
LONGEST = 3600.0 * 24 * 365 * 100


def check_timeout(value: object, name: str = "timeout", *, optional: bool = True, finite: bool = False) -> Optional[float]:
    """Return ``value`` as seconds; None (where ``optional``) and infinity mean "no limit" and come back as None.

    Raises TypeError for anything but a number, ValueError for NaN, for negative numbers, and where ``finite`` for infinity.
    """
    if value is None:
        if optional:
            return None
        raise TypeError(f"{name} must be a number of seconds, not None")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r} ({type(value).__name__})")
    seconds = float(value)
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"{name} must be zero or more seconds, not {value!r}")
    if finite and math.isinf(seconds):
        raise ValueError(f"{name} must be a finite number of seconds, not {value!r}")
    return None if math.isinf(seconds) else min(seconds, FOREVER)


def check_interval(value: object, name: str) -> float:
    """Return ``value`` as seconds; unlike a timeout it must be finite and more than zero."""
    seconds = check_timeout(value, name, optional=False)
    if seconds is None or seconds == 0:
        raise ValueError(f"{name} must be a finite number of seconds above zero, not {value!r}")
    return seconds


def check_life(value: object, name: str, least: float = 1e-9) -> Optional[float]:
    """Return ``value`` as seconds for which a server keeps something; None as None, infinity as ``LONGEST``.

    Raises TypeError for anything but a number, ValueError for NaN, for negative numbers, for less than ``least`` (but for
    zero, which means something else everywhere) and for more than ``LONGEST``.
    """
    within = check_timeout(value, name)
    if value is None or within == 0:
        return within
    if within is None:
        return LONGEST
    seconds = float(cast("float", value))  # a timeout is cut short
    if seconds < least:
        raise ValueError(f"{name} must be {least:g} s or more, not {value!r}: the server knows no shorter time")
    if seconds > LONGEST:
        raise ValueError(f"{name} must be {LONGEST:.0f} s (100 years) or less, or math.inf for no limit, not {value!r}")
    return seconds


class Deadline:
    """A point in time that a call must not outlive. Immutable, so safe in any thread."""

    __slots__ = ("at", "timeout")

    def __init__(self, timeout: Optional[float]) -> None:
        """``timeout``: seconds from now, None for no limit."""
        self.timeout = timeout
        self.at = None if timeout is None else time.monotonic() + timeout

    def remaining(self) -> Optional[float]:
        """Seconds left, never negative; None when there is no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def passed(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at

    def at_most(self, seconds: float) -> float:
        """Seconds left, but no more than ``seconds``."""
        if self.at is None:
            return seconds
        return min(max(0.0, self.at - time.monotonic()), seconds)
