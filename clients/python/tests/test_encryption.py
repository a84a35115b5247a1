import pytest
from cryptography.exceptions import InvalidTag

from examples.encryption import associated_data, seal, unseal

KEY = bytes(range(32))


def test_what_is_sealed_opens_in_its_room_for_its_sender_only() -> None:
    sealed = seal(KEY, "r\u00f6om", "alice", b"payload")
    assert sealed[0] == 1
    assert len(sealed) == 1 + 12 + 7 + 16
    assert unseal(KEY, "r\u00f6om", "alice", sealed) == b"payload"
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    wrong = [
        ("room", "alice", sealed),
        ("r\u00f6om", "bob", sealed),
        ("r\u00f6om", "alice", changed),
        ("r\u00f6om", "alice", b""),
    ]
    for room, sender, data in wrong:
        with pytest.raises(InvalidTag):
            unseal(KEY, room, sender, data)


def test_room_and_sender_cannot_be_shifted() -> None:
    assert associated_data("ab", "c") != associated_data("a", "bc")
    assert associated_data("a", "b") == b"\x00\x01a\x00\x01b"
