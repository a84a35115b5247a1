"""What one run of a scenario has: processes, the proxy, clients, variables."""

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import credentials
from .adapter import Adapter, SubscriptionLog
from .matching import Failed, Fields
from .processes import NatsServer, Service, free_port
from .proxy import Proxy
from .scenario import Scenario, substituted
from .stubs import OpenCall, Stubs

ADMIN = "conformance-admin"


@dataclass
class Programs:
    """The programs of a run of the suite."""

    service: str
    nats_server: str
    adapters: Path
    server: str | None = None  # address of a server that the runner did not start


@dataclass
class Client:
    """An adapter, and how it connects."""

    adapter: Adapter
    connect: Fields


@dataclass
class Feed:
    """Messages that a client publishes one after the other: payloads `NAME-1`, `NAME-2`, ..."""

    name: str
    answers: list[asyncio.Future[Fields]] = field(default_factory=list)
    stopped: bool = False

    def payload(self, number: int) -> str:
        return f"{self.name}-{number}"


class World:
    """The set-up of one scenario, which `close` takes down."""

    def __init__(self, scenario: Scenario, programs: Programs, folder: Path, *, language: str, peer: str, bounded: bool) -> None:
        self.scenario = scenario
        self.programs = programs
        self.folder = folder
        self.language = language
        self.peer = peer
        self.bounded = bounded
        self.variables: Fields = {"run": secrets.token_hex(4), "folder": str(folder)}
        self.services: list[Service] = []
        self.nats: NatsServer | None = None
        self.proxy: Proxy | None = None
        self.tokens: credentials.Tokens | None = None
        self.clients: dict[str, Client] = {}
        self.subscriptions: dict[str, SubscriptionLog] = {}
        self.answers: dict[str, asyncio.Future[Fields]] = {}
        self.feeds: dict[str, Feed] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.calls: dict[str, OpenCall] = {}
        self.marks: dict[str, float] = {"begin": time.monotonic()}
        self.turns: dict[int, int] = {}
        self.stubs: Stubs | None = None

    async def open(self) -> None:
        for name, values in self.scenario.values.items():
            self.variables[name] = values["bounded" if self.bounded else "full"]
        if self.programs.server:
            self.variables["service"] = f"http://{self.programs.server}"
            self.stubs = Stubs(self.programs.server)
            return
        await self.open_services()
        for name, given in self.scenario.clients.items():
            options = dict(given)
            language = options.pop("language", self.language)
            language = self.peer if language == "peer" else language
            program = self.programs.adapters / language
            adapter = Adapter(program, language, self.folder / f"client-{name}.log", self.subscriptions)
            self.clients[name] = Client(adapter, options)
        await asyncio.gather(*(self.start_client(name) for name in self.clients))

    async def open_services(self) -> None:
        setup = self.scenario.setup
        flags = dict(setup.flags)
        if setup.nats is not None:
            self.nats = NatsServer(self.programs.nats_server, self.folder, setup.nats)
            await self.nats.start()
            flags |= {"nats-url": self.nats.url}
        if setup.auth or setup.tls == "mutual":
            self.tokens = credentials.Tokens(self.programs.service, self.folder)
            public = await self.tokens.make_key()
            flags |= {"auth": "enforce", "auth-keys": public, "auth-admins": ADMIN, "auth-leeway": "0s"}
        if setup.tls:
            await credentials.certificates(self.folder)
            pair = {"tls-certificate": self.folder / "service.pem", "tls-key": self.folder / "service.key"}
            flags |= pair | ({"tls-client-ca": self.folder / "ca.pem"} if setup.tls == "mutual" else {})
        for number in range(setup.instances):
            name = f"service-{number}"
            service = Service(self.programs.service, self.programs.nats_server, self.folder, name, flags)
            self.services.append(service)
            await service.start()
        scheme = "https" if setup.tls else "http"
        self.variables["service"] = f"{scheme}://{self.services[0].address}"
        self.variables["port"] = self.services[0].port
        self.variables["address"] = self.variables["service"]
        if setup.proxy:
            self.proxy = Proxy([service.port for service in self.services], free_port())
            await self.proxy.start()
            self.variables["address"] = f"{scheme}://127.0.0.1:{self.proxy.port}"
        if not setup.tls:
            token = await self.tokens.token(ADMIN) if self.tokens else None
            self.stubs = Stubs(self.services[0].address, token)

    async def start_client(self, name: str) -> None:
        client = self.client(name)
        await client.adapter.start()
        if client.connect.pop("connected", True):
            await client.adapter.call("connect", await self.connection(client.connect))

    async def connection(self, options: Fields) -> Fields:
        """The fields of `connect`. `as = "alice"` brings a token for alice."""
        fields: Fields = {"address": "$address", **options}
        sub = fields.pop("as", None)
        if sub and self.tokens:
            fields |= {"token": await self.tokens.token(sub), "plaintext_token": True}
        return {key: self.expanded(value) for key, value in fields.items()}

    def expanded(self, value: Any) -> Any:
        return substituted(value, self.variables)

    def client(self, name: str) -> Client:
        if name not in self.clients:
            raise Failed(f"the scenario has no client {name}")
        return self.clients[name]

    def log_of(self, subscription: str) -> SubscriptionLog:
        return self.subscriptions.setdefault(subscription, SubscriptionLog())

    @property
    def direct(self) -> Stubs:
        """Stubs that reach the first instance without the proxy."""
        if self.stubs is None:
            raise Failed("the scenario has no stubs")
        return self.stubs

    async def close(self) -> None:
        for feed in self.feeds.values():
            feed.stopped = True
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for call in self.calls.values():
            call.cancel()
        await asyncio.gather(*(client.adapter.kill() for client in self.clients.values()), return_exceptions=True)
        if self.stubs is not None:
            await self.stubs.close()
        if self.proxy is not None:
            await self.proxy.close()
        await asyncio.gather(*(service.kill() for service in self.services), return_exceptions=True)
        if self.nats is not None:
            with contextlib.suppress(Failed):
                await self.nats.kill()
