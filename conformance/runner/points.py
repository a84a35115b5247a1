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
    points, listed = defined(), unit_tested()
    cited = {point for scenario in scenarios for point in scenario.points}
    missing = [point for point in points if point not in cited | listed.keys()]
    wrong = [
        *((f"{one.name} cites {point}", "does not exist") for one in scenarios for point in one.points if point not in points),
        *((f"unit-tested.toml lists {point}", "does not exist") for point in listed if point not in points),
        *((f"unit-tested.toml lists {point}", "a scenario cites it") for point in listed if point in cited),
        *((f"no scenario cites {point}", "unit-tested.toml does not list it") for point in missing),
    ]
    return [f"{what}: {why}" for what, why in wrong]
