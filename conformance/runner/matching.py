"""Compares what a scenario expects with what was seen."""

import base64
import re
from typing import Any

Fields = dict[str, Any]

COMPARISON = re.compile(r"(>=|<=) *(\d+)")


class Failed(Exception):
    """An expectation of a scenario does not hold."""


def pattern(size: int) -> bytes:
    """A payload of this size whose bytes are not all equal."""
    return bytes(i % 251 for i in range(min(size, 251 * 64))).ljust(size, b"\x5a")


def encoded(fields: Fields) -> Fields:
    """The fields of a message as the adapters have them: payloads are text here, and base64 there."""
    changed = dict(fields)
    if "size" in changed:
        changed["payload"] = base64.b64encode(pattern(changed.pop("size"))).decode()
    elif "payload" in changed:
        changed["payload"] = base64.b64encode(str(changed["payload"]).encode()).decode()
    return changed


def difference(expected: Any, seen: Any, path: str = "") -> str | None:
    """Why `seen` is not what is expected, or None.

    Of an object only the expected fields are compared. "*" means any value that is not empty, "" and false also match a
    field that is missing, "a|b" means one of the two, and ">= 5" compares numbers. A number equals its decimal string.
    """
    here = path or "it"
    if isinstance(expected, dict):
        if not isinstance(seen, dict):
            return f"{here} is {brief(seen)}, not an object"
        found = (difference(value, seen.get(key), f"{path}.{key}".lstrip(".")) for key, value in expected.items())
        return next((reason for reason in found if reason), None)
    if isinstance(expected, list):
        if not isinstance(seen, list) or len(seen) != len(expected):
            return f"{here} is {brief(seen)}, not a list of {len(expected)}"
        both = enumerate(zip(expected, seen, strict=True))
        return next((reason for i, (one, other) in both if (reason := difference(one, other, f"{path}[{i}]"))), None)
    return None if equal(expected, seen) else f"{here} is {brief(seen)}, not {brief(expected)}"


def equal(expected: Any, seen: Any) -> bool:
    if expected == "*":
        return seen not in (None, "", False)
    if expected == "":
        return seen in (None, "")
    if isinstance(expected, bool) or isinstance(seen, bool):
        return bool(expected) is bool(seen)
    if isinstance(expected, str) and (compared := COMPARISON.fullmatch(expected)):
        bound = int(compared[2])
        return seen is not None and (int(seen) >= bound if compared[1] == ">=" else int(seen) <= bound)
    return seen is not None and str(seen) in str(expected).split("|")


def brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:590]}... ({len(text)} characters)"
