"""The clock, and the pauses between attempts (U4)."""

from __future__ import annotations

import random
import time

BASE_PAUSE = 0.1
MAX_PAUSE = 2.0

_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def now() -> float:
    """Seconds of a clock that never goes back, and that goes on while the machine is suspended."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class Backoff:
    """Jittered pauses: before attempt n between half and the whole of 100 ms · 2ⁿ, at most 2 s (U4)."""

    def __init__(self) -> None:
        self._attempt = 0

    def pause(self, retry_after: float | None = None) -> float:
        """The pause before the next attempt in seconds, never shorter than the service asks for."""
        longest = min(MAX_PAUSE, BASE_PAUSE * 2.0 ** min(self._attempt, 10))
        self._attempt += 1
        return max(random.uniform(longest / 2, longest), retry_after or 0.0)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Begins from 100 ms again."""
        self._attempt = 0
