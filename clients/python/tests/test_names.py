"""Names that do not resolve for a time, with a scripted DNS server."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

import grpc
import pytest
from service import Service
from test_faults import run

import unibus
from unibus import _connection, _retry
from unibus._connection import Connection
from unibus.v1.room_service_pb2_grpc import add_RoomServiceServicer_to_server

A_RECORD = 1


class Names(asyncio.DatagramProtocol):
    """Knows no name at first. From the sixth question for an address on, every name has the address 127.0.0.1."""

    def __init__(self) -> None:
        self.questions = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        kind = struct.unpack(">H", data[end - 4 : end - 2])[0]
        self.questions += kind == A_RECORD
        known = self.questions > 5
        found = known and kind == A_RECORD
        flags = b"\x81\x80" if known else b"\x81\x83"
        reply = data[:2] + flags + struct.pack(">HHHH", 1, found, 0, 0) + data[12:end]
        if found:
            reply += b"\xc0\x0c" + struct.pack(">HHIH", A_RECORD, 1, 1, 4) + socket.inet_aton("127.0.0.1")
        self.transport.sendto(reply, address)


@pytest.mark.skipif(sys.platform == "win32", reason="gRPC asks the system there")
def test_a_name_that_did_not_resolve_is_asked_for_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC alone would ask for the sixth time after more than 15 s."""
    monkeypatch.setattr(_connection, "RENEW_AFTER", 0.1)
    for module in (_connection, _retry):
        monkeypatch.setattr(module, "MAX_PAUSE", 0.1)

    async def test() -> None:
        names, server = Names(), grpc.aio.server()
        add_RoomServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call,unused-ignore]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: names, ("127.0.0.1", 0))
        connection = Connection(f"http://service.test:{port}")
        connection._target = f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/service.test:{port}"
        async with unibus.Client(connection) as client:
            assert (await client.room("r").info()).id == "r"
            async with client.room("r").subscribe() as messages:
                assert (await anext(messages)).sequence == 1
        transport.close()
        await server.stop(None)

    run(test())
