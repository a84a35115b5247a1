"""A client of unibus: rooms with publish, subscribe, resume and history over gRPC.

`connect` makes a client, `Client.room` the handle of a room. The numbers U1 to U29 in the documentation refer to
docs/clients.md of the repository. `unibus.sync` has the same names for programs without asyncio, and `unibus.v1` the
generated messages and stubs.
"""

from unibus._client import Client, connect
from unibus._errors import Outcome, UnibusError
from unibus._publisher import Publisher
from unibus._room import Room
from unibus._subscription import Subscription
from unibus._types import (
    CaughtUp,
    Disconnected,
    Durability,
    Event,
    Gap,
    Member,
    Message,
    Moved,
    Opened,
    Published,
    Recreated,
    Retention,
    Role,
    RoomInfo,
    RoomState,
    Start,
    Subscriber,
)

__all__ = [
    "CaughtUp",
    "Client",
    "Disconnected",
    "Durability",
    "Event",
    "Gap",
    "Member",
    "Message",
    "Moved",
    "Opened",
    "Outcome",
    "Published",
    "Publisher",
    "Recreated",
    "Retention",
    "Role",
    "Room",
    "RoomInfo",
    "RoomState",
    "Start",
    "Subscriber",
    "Subscription",
    "UnibusError",
    "connect",
]
__version__ = "0.1.0"
