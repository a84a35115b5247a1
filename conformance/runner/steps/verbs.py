"""The table of verbs, and how steps are run."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..matching import Failed, Fields, brief
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


def verb_of(step: Fields) -> str:
    """The first key of the step."""
    first = next(iter(step), "")
    if first not in VERBS:
        raise Failed(f"{first!r} is no verb: {brief(step)}")
    return first


async def run_steps(world: World, steps: list[Fields]) -> None:
    """Runs steps one after the other, unless one of the background tasks fails."""
    for step in steps:
        verb = verb_of(step)
        try:
            await VERBS[verb](world, world.expanded(step))
        except (Failed, TimeoutError) as failed:
            reason = str(failed) or "took too long"
            raise Failed(f"{reason}\n    in the step {brief(step)}") from failed
        for name, task in list(world.tasks.items()):
            if task.done() and not task.cancelled() and (failure := task.exception()):
                raise Failed(f"{name} failed: {failure}")
        await asyncio.sleep(0)
