"""The matrix of languages and scenarios: as text, as JSON, and in the README."""

import datetime
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .matching import Fields
from .scenario import ROOT, Scenario

README = ROOT / "conformance" / "README.md"
BEGIN, END = "<!-- matrix -->", "<!-- end -->"
SERVER = "server"


@dataclass
class Result:
    """The outcome of one scenario with one language, over all repetitions."""

    scenario: str
    language: str
    passed: int = 0
    failed: int = 0
    skipped: str = ""  # the reason
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    @property
    def cell(self) -> str:
        if self.skipped:
            return "-"
        if not self.seconds:
            return ""
        longest = f"{max(self.seconds):.1f} s"
        runs = self.passed + self.failed
        if self.failed:
            return f"FAILED {self.failed}/{runs}" if runs > 1 else "FAILED"
        return longest


@dataclass
class Report:
    """All results of a run."""

    results: list[Result]
    languages: list[str]
    versions: dict[str, Fields]
    bounded: bool
    repeat: int
    seconds: float = 0.0
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"))

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.failed]

    def cell(self, scenario: str, language: str) -> str:
        found = [one.cell for one in self.results if one.scenario == scenario and one.language == language]
        return found[0] if found else ""

    def rows(self) -> list[list[str]]:
        names = list(dict.fromkeys(result.scenario for result in self.results))
        columns = list(dict.fromkeys(result.language for result in self.results))
        return [["scenario", *columns]] + [[name, *(self.cell(name, column) for column in columns)] for name in names]

    def text(self) -> str:
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps({"machine": platform.platform(), **asdict(self)}, indent=2) + "\n")

    def markdown(self, scenarios: dict[str, Scenario]) -> str:
        """Two tables: the versions, and the matrix."""
        kind = "bounded" if self.bounded else "full"
        lines = [f"The {kind} run of {self.date}, {self.repeat} in a row, on {platform.system()} {platform.machine()}:", ""]
        lines += ["| client | runtime | libraries |", "|---|---|---|"]
        lines += [
            f"| {language} | {hello.get('runtime', '')} | {libraries(hello.get('library'))} |"
            for language, hello in self.versions.items()
        ]
        rows = self.rows()
        lines += ["", f"| {' | '.join(['scenario', 'points', *rows[0][1:]])} |", f"|{'---|' * (len(rows[0]) + 1)}"]
        for name, *cells in rows[1:]:
            points = ", ".join(scenarios[name].points) if name in scenarios else ""
            lines.append(f"| `{name}` | {points} | {' | '.join(cells)} |")
        skipped = [one for one in self.results if one.skipped]
        lines += [""] if skipped else []
        lines += [f"`{one.scenario}` does not apply to {one.language}: {one.skipped}." for one in skipped]
        return "\n".join(lines)

    def update_readme(self, scenarios: dict[str, Scenario]) -> None:
        text = README.read_text()
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        README.write_text(f"{before}{BEGIN}\n\n{self.markdown(scenarios)}\n\n{END}{after}")


def libraries(told: object) -> str:
    if isinstance(told, dict):
        return ", ".join(f"{name} {version}" for name, version in told.items())
    if isinstance(told, list):
        return ", ".join(str(one) for one in told)
    return str(told or "")
