"""The table of verbs."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..matching import Failed, Fields
from ..world import World

Step = Callable[[World, Fields], Awaitable[None]]
VERBS: dict[str, Step] = {}
WITHIN = 20.0  # seconds, where a step does not say


def verb(function: Step) -> Step:
    """Makes the function a verb: its name without `step_`."""
    VERBS[function.__name__.removeprefix("step_")] = function
    return function


async def until(reason: Callable[[], Awaitable[str | None]], seconds: float, pause: float = 0.05) -> None:
    """Asks again until there is no reason left. After `seconds` it fails with the last one."""
    end = time.monotonic() + seconds
    while last := await reason():
        if time.monotonic() > end:
            raise Failed(f"after {seconds} s {last}")
        await asyncio.sleep(pause)
