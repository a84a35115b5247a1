"""The behaviour points of docs/clients.md, and which scenario cites which."""

import re
import tomllib

from .scenario import ROOT, SCENARIOS, Scenario

DOCUMENT = ROOT / "docs" / "clients.md"
UNIT_TESTED = SCENARIOS.parent / "unit-tested.toml"


def defined() -> list[str]:
    """The points that the document defines, in its order."""
    return re.findall(r"^\*\*(U\d+)\. ", DOCUMENT.read_text(), re.MULTILINE)


def unit_tested() -> dict[str, str]:
    """The points that no scenario can check, each with the reason."""
    with UNIT_TESTED.open("rb") as file:
        return {str(point): str(reason) for point, reason in tomllib.load(file).items()}


def problems(scenarios: list[Scenario]) -> list[str]:
    """Cited points that do not exist, and points that nothing checks."""
    points = defined()
    cited = {point for scenario in scenarios for point in scenario.points}
    found = [f"{one.name} cites {point}, which does not exist" for one in scenarios for point in one.points if point not in points]
    listed = unit_tested()
    found += [f"no scenario cites {point}, and unit-tested.toml does not list it" for point in points if point not in cited | set(listed)]
    found += [f"unit-tested.toml lists {point}, which a scenario cites" for point in listed if point in cited]
    return found + [f"unit-tested.toml lists {point}, which does not exist" for point in listed if point not in points]
