"""The scenarios: data files in `conformance/scenarios/`."""

import re
import string
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .matching import Fields

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ROOT / "conformance" / "scenarios"
KEYS = {"name", "goal", "points", "part", "bounded", "timeout", "alone", "values", "setup", "clients", "steps", "skip"}


@dataclass
class Setup:
    """What runs before the first step."""

    flags: Fields = field(default_factory=dict)  # of the service, without the leading dashes
    instances: int = 1  # of the service
    nats: Fields | None = None  # settings of an external nats-server; None: the embedded one
    auth: bool = False  # whether callers need tokens
    tls: str = ""  # "server" or "mutual"
    proxy: bool = False  # whether the clients connect through the fault proxy


@dataclass
class Scenario:
    """One file."""

    name: str
    goal: str
    steps: list[Fields]
    points: list[str] = field(default_factory=list)  # the behaviour points that it checks
    part: str = "client"  # or "server": the contract alone, without a client
    bounded: bool = True  # whether it belongs to the bounded run
    timeout: float = 60  # seconds for all steps
    alone: bool = False  # whether it measures times so short that no other scenario may run meanwhile
    values: dict[str, Fields] = field(default_factory=dict)  # variables: full and bounded
    setup: Setup = field(default_factory=Setup)
    clients: dict[str, Fields] = field(default_factory=dict)  # adapters that are started, and their `connect`
    skip: dict[str, str] = field(default_factory=dict)  # languages to which it does not apply, each with the reason

    @property
    def peers(self) -> bool:
        """Whether it runs once with each other language."""
        return any(client.get("language") == "peer" for client in self.clients.values())

    @property
    def needs_own_server(self) -> bool:
        """Whether it cannot run against a server that the runner did not start."""
        return self.setup != Setup() or self.part != "server"


def load(path: Path) -> Scenario:
    with path.open("rb") as file:
        data = tomllib.load(file)
    if unknown := set(data) - KEYS:
        raise ValueError(f"{path.name}: unknown keys {sorted(unknown)}")
    if data.get("name") != path.stem:
        raise ValueError(f"{path.name}: its name is {data.get('name')}")
    data["setup"] = Setup(**data.get("setup", {}))
    return Scenario(**data)


def load_all() -> list[Scenario]:
    return [load(path) for path in sorted(SCENARIOS.glob("*.toml"))]


NAME = re.compile(r"\$(\w+)")


def substituted(value: Any, variables: Fields) -> Any:
    """The value with `$name` replaced. A string that is one name becomes the variable itself, such as a number."""
    if isinstance(value, str):
        if (whole := NAME.fullmatch(value)) and whole[1] in variables:
            return variables[whole[1]]
        return string.Template(value).substitute(variables) if "$" in value else value
    if isinstance(value, list):
        return [substituted(one, variables) for one in value]
    if isinstance(value, dict):
        return {key: one if key in NESTED else substituted(one, variables) for key, one in value.items()}
    return value


# Steps within a step get the variables of the moment at which they run.
NESTED = {"steps", "turns"}
