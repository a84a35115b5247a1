import asyncio
import inspect
import signal
import threading
from pathlib import Path

import pytest

import unibus
from unibus import UnibusError, sync

HERE = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["Client", "Room", "Publisher", "Subscription"])
def test_the_blocking_face_has_the_same_names_and_parameters(name: str) -> None:
    ours, theirs = vars(getattr(unibus, name)), vars(getattr(sync, name))
    internal = {"handling", "request_stop"}
    for method, wrapped in ours.items():
        if method.startswith("_") or not callable(wrapped) or method in internal:
            continue
        given = inspect.signature(theirs[method]).parameters
        assert list(given) == list(inspect.signature(wrapped).parameters), method
    assert list(inspect.signature(sync.connect).parameters) == list(inspect.signature(unibus.connect).parameters)


def test_an_interrupt_cancels_the_call_and_waits_for_its_end() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.05)  # such as the last acknowledgement
            ended.append(True)

    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        sync._Portal.shared().call(work())
    assert ended == [True]


def test_errors_come_through() -> None:
    with sync.connect("http://127.0.0.1:1") as client, client.room("r").publisher() as publisher:
        pass
    with pytest.raises(UnibusError, match="closed"):
        client.room("r").info()
    with pytest.raises(UnibusError, match="closed"):
        publisher.send(b"x")
    with pytest.raises(ValueError, match="forwards"):
        client.room("r").history(before=1)


def test_the_readme_shows_the_quick_start_as_it_is() -> None:
    def code(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.strip()]

    printed = (HERE / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = (HERE / "examples" / "quickstart.py").read_text().partition('"""\n\n')[2]
    assert code(printed) == code(program)
    assert len(code(program)) <= 15
