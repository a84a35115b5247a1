"""End-to-end encryption: the service and NATS see sealed payloads only. Run it with an address and the key in hex.

sealed = 0x01, 12 random bytes (the nonce), AES-256-GCM of the payload with its 16-byte tag. The room and the sender are
bound as associated data, so that a sealed payload opens only in its room and for its sender.

Limits: the key comes from elsewhere, since there is no key exchange. One key seals at most 2^32 messages, because nonces are
random. The service can replay, reorder or drop messages. The sender is what the service verified (`Message.sender`), so
without authorisation it is empty.
"""

import asyncio
import os
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import unibus

VERSION = b"\x01"
NONCE_BYTES = 12


def associated_data(room: str, sender: str) -> bytes:
    parts = (room.encode(), sender.encode())
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def seal(key: bytes, room: str, sender: str, payload: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return VERSION + nonce + AESGCM(key).encrypt(nonce, payload, associated_data(room, sender))


def unseal(key: bytes, room: str, sender: str, sealed: bytes) -> bytes:
    """The payload. Raises InvalidTag if the key, the room or the sender is another one, or if a byte was changed."""
    if sealed[:1] != VERSION:
        raise InvalidTag
    nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    return AESGCM(key).decrypt(nonce, ciphertext, associated_data(room, sender))


async def main(address: str, key: bytes) -> None:
    async with unibus.connect(address) as client:
        room = await client.create_room("sealed")
        await room.publish(seal(key, room.id, "", b"only for us"))
        async with room.subscribe(until_caught_up=True) as messages:
            async for message in messages:
                print(message.sequence, unseal(key, room.id, message.sender, message.payload))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], bytes.fromhex(sys.argv[2])))
