"""What the runner decides without a service: comparisons, numbers, scenarios, and the fault proxy."""

import asyncio
import contextlib
import unittest

from runner.matching import difference, encoded
from runner.points import defined, problems
from runner.processes import free_port
from runner.proxy import MODES, Proxy
from runner.report import Report, Result
from runner.scenario import load_all, substituted
from runner.steps.subscriptions import nanoseconds, span
from runner.suite import partners


class Comparisons(unittest.TestCase):
    """`difference` finds what is wrong, and nothing else."""

    def test_fields_are_compared_and_others_ignored(self) -> None:
        self.assertIsNone(difference({"a": "1"}, {"a": 1, "b": 2}))
        self.assertIsNone(difference({"a": {"b": "x|y"}}, {"a": {"b": "y"}}))
        self.assertEqual(difference({"a": {"b": "x"}}, {"a": {}}), "a.b is None, not 'x'")
        self.assertIsNotNone(difference({"a": []}, {"a": [1]}))
        self.assertIsNone(difference([{"a": "*"}], [{"a": "z"}]))

    def test_special_values_mean_what_the_readme_says(self) -> None:
        self.assertIsNone(difference({"a": "", "b": False}, {}))
        self.assertIsNotNone(difference({"a": "*"}, {"a": ""}))
        self.assertIsNotNone(difference({"a": True}, {"a": False}))
        self.assertIsNone(difference(">= 5", "9007199254740993"))
        self.assertIsNotNone(difference("<= 5", 6))
        self.assertIsNotNone(difference("9007199254740993", 9007199254740992))

    def test_payloads_are_text(self) -> None:
        self.assertEqual(encoded({"payload": "a"}), {"payload": "YQ=="})
        self.assertEqual(len(encoded({"size": 300})["payload"]), 400)


class Numbers(unittest.TestCase):
    """Sequences and times are exact."""

    def test_spans(self) -> None:
        self.assertEqual(span("1..3, 7"), [1, 2, 3, 7])
        self.assertEqual(span("9007199254740993"), [9007199254740993])

    def test_nanoseconds(self) -> None:
        self.assertEqual(nanoseconds("1970-01-01T00:00:01.000000001Z"), 1_000_000_001)
        self.assertEqual(nanoseconds("1970-01-01T00:00:01.5Z"), 1_500_000_000)
        self.assertEqual(nanoseconds("1970-01-01T00:00:02Z"), 2_000_000_000)


class Scenarios(unittest.TestCase):
    """The data files are whole."""

    def test_every_point_is_cited_and_every_cited_point_exists(self) -> None:
        self.assertEqual(problems(load_all()), [])
        self.assertGreaterEqual(len(defined()), 29)

    def test_a_point_that_does_not_exist_is_found(self) -> None:
        scenarios = load_all()
        scenarios[0].points.append("U999")
        self.assertEqual(problems(scenarios), [f"{scenarios[0].name} cites U999: does not exist"])

    def test_every_scenario_has_a_goal_in_one_sentence(self) -> None:
        for one in load_all():
            self.assertTrue(one.goal.endswith(".") and one.steps, one.name)

    def test_variables_keep_their_type(self) -> None:
        self.assertEqual(substituted({"a": "$n", "b": "r-$n", "steps": ["$n"]}, {"n": 5}), {"a": 5, "b": "r-5", "steps": ["$n"]})


class Matrix(unittest.TestCase):
    """A failure is never shown as a time."""

    def test_cells(self) -> None:
        good, bad = Result("s", "go", passed=2, seconds=[1.0, 2.0]), Result("s", "java", passed=1, failed=1, seconds=[1.0, 1.0])
        report = Report([good, bad], ["go", "java"], {}, bounded=True, repeat=2)
        self.assertEqual(report.rows(), [["scenario", "go", "java"], ["s", "2.0 s", "FAILED 1/2"]])
        self.assertEqual(report.failed, [bad])


class Pairs(unittest.TestCase):
    """Each language meets each other one."""

    def test_every_pair_meets(self) -> None:
        for count in range(1, 7):
            languages = [str(number) for number in range(count)]
            pairs = {frozenset((one, other)) for one in languages for other in partners(languages, one)}
            self.assertEqual(len(pairs), count * (count - 1) // 2, count)
            self.assertTrue(all(len(pair) == 2 for pair in pairs))


class Faults(unittest.IsolatedAsyncioTestCase):
    """The proxy does what its modes say."""

    async def asyncSetUp(self) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(100):
                    writer.write(data)
            writer.close()

        self.server = await asyncio.start_server(echo, "127.0.0.1", 0)
        self.proxy = Proxy([self.server.sockets[0].getsockname()[1]], free_port())
        await self.proxy.start()

    async def asyncTearDown(self) -> None:
        await self.proxy.close()
        self.server.close()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self.addCleanup(writer.close)
        return reader, writer

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float = 0.3) -> bytes | None:
        writer.write(b"x")
        try:
            return await asyncio.wait_for(reader.read(100), seconds)
        except TimeoutError:
            return None

    async def test_bytes_that_were_held_come_later(self) -> None:
        pair = await self.open()
        await self.proxy.set("hold", 0)
        self.assertIsNone(await self.answer(*pair))
        await self.proxy.set("pass", 0)
        self.assertEqual(await asyncio.wait_for(pair[0].read(100), 2), b"x")

    async def test_half_open_loses_the_open_connections_alone(self) -> None:
        pair = await self.open()
        self.assertEqual(await self.answer(*pair, 2), b"x")
        await self.proxy.set("half_open", 0)
        self.assertIsNone(await self.answer(*pair))
        self.assertEqual(await self.answer(*await self.open(), 2), b"x")

    async def test_a_muted_connection_gets_no_answer(self) -> None:
        pair = await self.open()
        await self.proxy.set("mute", 0)
        self.assertIsNone(await self.answer(*pair))

    async def test_cut_and_refuse_end_connections(self) -> None:
        pair = await self.open()
        self.assertEqual(await self.answer(*pair, 2), b"x")
        await self.proxy.set("cut", 0)
        with self.assertRaises(ConnectionResetError):
            await asyncio.wait_for(pair[0].read(100), 2)
        await self.proxy.set("refuse", 0)
        with self.assertRaises(ConnectionRefusedError):
            await self.open()

    async def test_http502_is_answered_and_unknown_modes_are_refused(self) -> None:
        await self.proxy.set("http502", 0)
        answer = await self.answer(*await self.open(), 2)
        self.assertTrue(answer and answer.startswith(b"HTTP/1.1 502"))
        self.assertNotIn("none", MODES)
        with self.assertRaises(Exception):  # noqa: B017
            await self.proxy.set("none", 0)


if __name__ == "__main__":
    unittest.main()
