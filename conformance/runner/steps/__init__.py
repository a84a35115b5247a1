"""The verbs of the steps. The first key of a step is its verb; the other keys are its fields."""

import asyncio

from ..matching import Failed, Fields, brief
from ..world import World
from . import calls, contract, faults, flow, publishing, subscriptions
from .verbs import VERBS

__all__ = ["VERBS", "calls", "contract", "faults", "flow", "publishing", "run_steps", "subscriptions", "verb_of"]


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


flow.run_steps = run_steps
