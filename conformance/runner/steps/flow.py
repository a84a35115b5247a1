"""Repetition, background tasks, time."""

import asyncio
import time

from ..matching import Failed, Fields
from ..world import World
from .verbs import WITHIN, run_steps, verb


@verb
async def step_sleep(_: World, step: Fields) -> None:
    """`{sleep = 1.5}`: seconds."""
    await asyncio.sleep(step["sleep"])


@verb
async def step_repeat(world: World, step: Fields) -> None:
    """`{repeat = 50, steps = [...]}`: the variable `number` counts from 1."""
    for number in range(1, int(step["repeat"]) + 1):
        world.variables["number"] = number
        await run_steps(world, step["steps"])


@verb
async def step_turns(world: World, step: Fields) -> None:
    """`{turns = [[...], [...]]}`: runs the next list of steps each time, then the first one again."""
    lists = step["turns"]
    key = len(repr(lists))
    turn = world.turns.get(key, 0)
    world.turns[key] = turn + 1
    await run_steps(world, lists[turn % len(lists)])


@verb
async def step_background(world: World, step: Fields) -> None:
    """`{background = "x", steps = [...]}`: runs the steps while the next ones go on. `{join = "x"}` waits for their end, and
    `{stop = "x"}` stops them."""

    async def run() -> None:
        await run_steps(world, step["steps"])

    world.tasks[step["background"]] = asyncio.create_task(run())


@verb
async def step_join(world: World, step: Fields) -> None:
    await asyncio.wait_for(world.tasks.pop(step["join"]), step.get("within", WITHIN))


@verb
async def step_stop(world: World, step: Fields) -> None:
    task = world.tasks.pop(step["stop"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@verb
async def step_mark(world: World, step: Fields) -> None:
    """`{mark = "x"}`: remembers this moment."""
    world.marks[step["mark"]] = time.monotonic()


@verb
async def step_elapsed(world: World, step: Fields) -> None:
    """`{elapsed = "x", at_most = 2.5}`: the time since the mark `x`."""
    took = time.monotonic() - world.marks[step["elapsed"]]
    if took > step.get("at_most", took) or took < step.get("at_least", 0):
        raise Failed(f"{took:.2f} s have passed")
