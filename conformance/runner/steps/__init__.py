"""The verbs of the steps. The first key of a step is its verb; the other keys are its fields."""

from . import calls, contract, faults, flow, publishing, subscriptions
from .verbs import run_steps, verb_of

__all__ = ["calls", "contract", "faults", "flow", "publishing", "run_steps", "subscriptions", "verb_of"]
