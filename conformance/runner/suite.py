"""Runs scenarios side by side."""

import asyncio
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from .adapter import Adapter
from .matching import Failed, Fields
from .report import SERVER, Report, Result
from .scenario import Scenario
from .steps import run_steps
from .world import Programs, World


@dataclass
class Options:
    """What the command line asks for."""

    languages: list[str]
    bounded: bool
    repeat: int
    jobs: int
    logs: Path
    keep: bool  # logs of scenarios that passed


class Suite:
    """One run of the suite."""

    def __init__(self, programs: Programs, options: Options) -> None:
        self.programs = programs
        self.options = options

    async def run(self, scenarios: list[Scenario]) -> Report:
        began = time.monotonic()
        versions = {language: await self.versions(language) for language in self.options.languages}
        together = [one for one in scenarios if not one.alone]
        alone = [one for one in scenarios if one.alone]
        # the longest first, so that no long one is left at the end
        together.sort(key=lambda one: -one.timeout)
        results = await self.run_all(together, self.options.jobs) + await self.run_all(alone, 1)
        order = {scenario.name: place for place, scenario in enumerate(scenarios)}
        columns = [*self.options.languages, SERVER]
        results.sort(key=lambda one: (order[one.scenario], columns.index(one.language)))
        report = Report(results, self.options.languages, versions, self.options.bounded, self.options.repeat)
        report.seconds = time.monotonic() - began
        return report

    async def versions(self, language: str) -> Fields:
        """The answer to `hello`, which also shows that the adapter starts."""
        adapter = Adapter(self.programs.adapters / language, language, self.options.logs / f"hello-{language}.log", {})
        try:
            await adapter.start()
            return await adapter.call("hello", {}, 60)
        finally:
            await adapter.stop()

    async def run_all(self, scenarios: list[Scenario], jobs: int) -> list[Result]:
        slots = asyncio.Semaphore(jobs)
        runs = [
            self.run_one(slots, scenario, language)
            for scenario in scenarios
            for language in ([SERVER] if scenario.part == "server" else self.options.languages)
        ]
        return list(await asyncio.gather(*runs))

    async def run_one(self, slots: asyncio.Semaphore, scenario: Scenario, language: str) -> Result:
        result = Result(scenario.name, language, skipped=scenario.skip.get(language, ""))
        peers = [""]
        if scenario.peers:
            peers = partners([one for one in self.options.languages if one not in scenario.skip], language)
            result.skipped = result.skipped or ("" if peers else "needs a second language")
        if result.skipped:
            return result
        for _ in range(self.options.repeat):
            async with slots:
                seconds, failure = 0.0, None
                for peer in peers:
                    took, failure = await self.attempt(scenario, language, peer, result)
                    seconds += took
                    if failure:
                        break
            result.seconds.append(round(seconds, 2))
            result.passed += failure is None
            result.failed += failure is not None
            told = "ok" if failure is None else f"FAILED\n  {failure}\n  logs: {result.logs[-1]}"
            print(f"{language:<16}{scenario.name:<34}{seconds:6.1f} s  {told}", flush=True)
        return result

    async def attempt(self, scenario: Scenario, language: str, peer: str, result: Result) -> tuple[float, str | None]:
        """Runs the scenario once. Its time, and why it failed."""
        folder = Path(tempfile.mkdtemp(prefix=f"{language}-{scenario.name}-", dir=self.options.logs))
        world = World(scenario, self.programs, folder, language=language, peer=peer, bounded=self.options.bounded)
        began = time.monotonic()
        failure: str | None = None
        try:
            async with asyncio.timeout(scenario.timeout):
                await world.open()
                await run_steps(world, scenario.steps)
        except TimeoutError:
            failure = f"it did not end in {scenario.timeout} s"
        except (Failed, OSError) as failed:
            failure = str(failed)
        except Exception:
            failure = f"a fault of the runner or of the scenario: {traceback.format_exc()}"
        finally:
            took = time.monotonic() - began
            # also when the run is ended, so that nothing is left behind
            await world.close()
        if failure is not None:
            failure = f"with {peer}: {failure}" if peer else failure
            result.failures.append(failure)
            result.logs.append(str(folder))
        elif not self.options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        return took, failure


def partners(languages: list[str], language: str) -> list[str]:
    """The next languages in a circle, half of them, so that each pair of languages meets."""
    if language not in languages:
        return []
    place, count = languages.index(language), len(languages)
    return [languages[(place + step) % count] for step in range(1, count // 2 + 1)]
