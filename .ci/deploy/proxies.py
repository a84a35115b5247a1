#!/usr/bin/env python3
"""Runs the service behind a proxy, with the example configurations of deploy/, and does what ends badly behind proxies.

    proxies.py UNIBUS NATS_SERVER nginx=PROGRAM [envoy=PROGRAM]

A nats-server, two instances of the service and the proxies run on free ports of loopback. The configurations differ from
those of deploy/ in addresses and paths alone. Checked for each proxy: streams that are silent for longer than the default
timeouts of a proxy, a large upload of messages of 960 KiB, many streams of one connection, gRPC-Web and the HTTP endpoint
over HTTP/1.1, and a rolling restart. A second server of nginx without the timeouts shows that the silent streams need
them.
"""

import asyncio
import base64
import contextlib
import http.client
import importlib
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

import grpc
import grpc_tools.protoc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
SILENCE = 75  # seconds; nginx ends a stream after 60 by default
SOON = 20
UPLOAD = 64
STREAMS = 500


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def generated(directory):
    """The modules of the contract, made from proto/."""
    files = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    include = pathlib.Path(grpc_tools.protoc.__file__).parent / "_proto"
    command = ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={directory}"]
    if grpc_tools.protoc.main([*command, f"--grpc_python_out={directory}", *files]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, directory)
    names = ["room_service_pb2", "subscription_pb2", "room_service_pb2_grpc"]
    return [importlib.import_module(f"unibus.v1.{name}") for name in names]


class Failed(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failed(what)


class Processes:
    """The processes of the run, each with its output in a file. They are killed at the end."""

    def __init__(self, directory):
        self.directory = directory
        self.running = {}

    def start(self, name, command):
        with open(f"{self.directory}/{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )

    def listens(self, name, port):
        check(self.running[name].poll() is None, f"{name} has ended")
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True

    def stop(self, name):
        process = self.running[name]
        process.send_signal(signal.SIGTERM)
        return process.wait(SOON)

    def kill(self):
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(SOON)
            except subprocess.TimeoutExpired:
                process.kill()

    def show(self):
        for name in self.running:
            print(f"--- {name}", *pathlib.Path(self.directory, f"{name}.log").read_text().splitlines()[-15:], sep="\n")


async def until(name, answers):
    end = time.monotonic() + SOON
    while True:
        with contextlib.suppress(OSError, subprocess.CalledProcessError, grpc.RpcError):
            if answers():
                return
        check(time.monotonic() < end, f"{name} is not ready")
        await asyncio.sleep(0.1)


def replaced(text, changes):
    """`text` with each of the exact texts replaced. A text that is missing is an error."""
    for old, new in changes:
        check(old in text, f"the configuration has no {old!r}")
        text = text.replace(old, new)
    return text


def nginx_config(directory, backends, port, impatient_port):
    """The server of deploy/nginx/, and beside it the same server without its timeouts."""
    certificates = [("/etc/nginx/tls/", f"{directory}/")]
    addresses = [(f"unibus-{number}:50051", f"127.0.0.1:{backend}") for number, backend in enumerate(backends, 1)]
    config = replaced((ROOT / "deploy/nginx/unibus.conf").read_text(), [*certificates, *addresses])
    patient = replaced(config, [("listen 443 ", f"listen 127.0.0.1:{port} ")])
    server = config[config.index("server {"):]
    impatient = re.sub(r"^ *\w+_timeout 24h;\n", "", server, flags=re.MULTILINE)
    check(server.count("\n") - impatient.count("\n") == 4, "four timeouts are set")
    impatient = replaced(impatient, [("listen 443 ", f"listen 127.0.0.1:{impatient_port} "),
                                     (" so_keepalive=30s:10s:3", "")])
    paths = "".join(f"{kind}_temp_path {directory}/nginx-{kind};\n"
                    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    return (f"daemon off;\nuser root;\nerror_log stderr warn;\npid {directory}/nginx.pid;\nworker_rlimit_nofile 8192;\n"
            "events { worker_connections 4096; }\n"
            f"http {{\naccess_log {directory}/access.log;\n{paths}{patient}{impatient}}}\n")


def envoy_config(directory, backends, port, admin_port):
    changes = [("/etc/envoy/tls/", f"{directory}/"), ("address: 0.0.0.0, port_value: 8443", f"address: 127.0.0.1, port_value: {port}"),
               ("port_value: 9901", f"port_value: {admin_port}")]
    changes += [(f"address: unibus-{number}, port_value: 50051", f"address: 127.0.0.1, port_value: {backend}")
                for number, backend in enumerate(backends, 1)]
    return replaced((ROOT / "deploy/envoy/unibus.yaml").read_text(), changes)


class Behind:
    """The checks behind one proxy."""

    def __init__(self, name, port, modules, directory):
        self.name = name
        self.port = port
        self.service, self.subscription, grpc_module = modules
        self.ca = pathlib.Path(directory, "certificate.pem").read_bytes()
        self.channel = self.open()
        self.rooms = grpc_module.RoomServiceStub(self.channel)
        self.stub = grpc_module.RoomServiceStub
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def open(self):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20)]
        return grpc.aio.secure_channel(f"localhost:{self.port}", grpc.ssl_channel_credentials(self.ca), options)

    def room(self, what):
        return f"{self.name}-{what}"

    async def create(self, room):
        await self.rooms.CreateRoom(self.service.CreateRoomRequest(room_id=room, persist=True), timeout=SOON)

    def message(self, room, payload, number=0):
        publish = self.service.PublishRequest(room_id=room, payload=payload, message_id=f"id-{number}")
        return self.service.PublishStreamRequest(correlation_id=number, publish=publish)

    async def read_message(self, frames):
        while True:
            frame = await asyncio.wait_for(frames.read(), SOON)
            check(frame is not grpc.aio.EOF, "the subscription ended")
            if frame.HasField("message"):
                return frame.message

    async def silent_publisher(self):
        """A PublishStream without a message for a while."""
        room = self.room("silent")
        stream = self.rooms.PublishStream()
        await stream.write(self.message(room, b"first", 1))
        check((await asyncio.wait_for(stream.read(), SOON)).HasField("result"), "the first message is stored")
        await asyncio.sleep(SILENCE)
        await stream.write(self.message(room, b"second", 2))
        answer = await asyncio.wait_for(stream.read(), SOON)
        check(answer is not grpc.aio.EOF and answer.HasField("result"), f"the stream is still open: {answer}")
        await stream.done_writing()

    async def silent_consumer(self):
        """A Consume stream on which neither side has anything to say."""
        stream = self.rooms.Consume()
        await asyncio.sleep(SILENCE)
        subscribe = self.service.SubscribeRequest(room_id=self.room("silent"))
        await stream.write(self.service.ConsumeRequest(open=self.service.ConsumeOpen(subscribe=subscribe)))
        check(await asyncio.wait_for(stream.read(), SOON) is not grpc.aio.EOF, "the stream is still open")
        stream.cancel()

    async def silent_health(self):
        """A health watch, which has nothing to say while nothing changes."""
        watch = self.health.Watch(health_pb2.HealthCheckRequest())
        check((await asyncio.wait_for(watch.read(), SOON)).status == 1, "SERVING")
        with contextlib.suppress(asyncio.TimeoutError):
            answer = await asyncio.wait_for(watch.read(), SILENCE)
            raise Failed(f"the watch ended or changed: {answer}")
        watch.cancel()

    async def silent_subscriber(self):
        """A subscription that gets nothing but heartbeats for a while, and then a message."""
        room = self.room("quiet")
        await self.create(room)
        frames = self.rooms.Subscribe(self.service.SubscribeRequest(room_id=room))
        waiting = asyncio.create_task(self.until_message(frames))
        await asyncio.sleep(SILENCE)
        await self.rooms.Publish(self.service.PublishRequest(room_id=room, payload=b"late"), timeout=SOON)
        message, heartbeats = await asyncio.wait_for(waiting, SOON)
        check(message.payload == b"late" and heartbeats >= 3, f"{heartbeats} heartbeats")
        frames.cancel()

    async def until_message(self, frames):
        heartbeats = 0
        while True:
            frame = await frames.read()
            check(frame is not grpc.aio.EOF, "the subscription ended")
            heartbeats += frame.HasField("heartbeat")
            if frame.HasField("message"):
                return frame.message, heartbeats

    async def upload(self):
        """A stream of messages that together are larger than any default bound of a body."""
        room = self.room("upload")
        await self.create(room)
        stream = self.rooms.PublishStream()
        payload = os.urandom(960 * 1024)
        begun = time.monotonic()

        async def write():
            for number in range(1, UPLOAD + 1):
                await stream.write(self.message(room, payload, number))
            await stream.done_writing()

        writing = asyncio.create_task(write())
        for number in range(1, UPLOAD + 1):
            answer = await asyncio.wait_for(stream.read(), SOON)
            check(answer is not grpc.aio.EOF and answer.HasField("result"), f"message {number}: {answer}")
        await writing
        print(f"{self.name}: {UPLOAD} messages of 960 KiB in {time.monotonic() - begun:.1f} s", flush=True)

    async def many_streams(self):
        """Many subscriptions of one connection."""
        room = self.room("many")
        await self.create(room)
        request = self.service.SubscribeRequest(room_id=room, start=self.subscription.Start(all={}))
        async with self.open() as channel:
            rooms = self.stub(channel)
            streams = [rooms.Subscribe(request) for _ in range(STREAMS)]
            opened = await asyncio.wait_for(asyncio.gather(*(stream.read() for stream in streams)), SOON)
            check(all(frame.HasField("opened") for frame in opened), "every subscription is open")
            await rooms.Publish(self.service.PublishRequest(room_id=room, payload=b"to all"), timeout=SOON)
            received = await asyncio.gather(*(self.read_message(stream) for stream in streams))
            check(all(message.payload == b"to all" for message in received), "every subscription has the message")

    def http(self):
        context = ssl.create_default_context(cadata=self.ca.decode())
        return http.client.HTTPSConnection("localhost", self.port, timeout=SOON, context=context)

    def web_call(self, method, request):
        """Sends a gRPC-Web call over HTTP/1.1; returns the answer, whose body is not read yet."""
        body = request.SerializeToString()
        connection = self.http()
        headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
        connection.request("POST", f"/unibus.v1.RoomService/{method}", struct.pack(">BI", 0, len(body)) + body, headers)
        answer = connection.getresponse()
        check(answer.status == 200, f"{method}: {answer.status}")
        return answer

    def web_frame(self, answer):
        flags, length = struct.unpack(">BI", answer.read(5))
        return flags, answer.read(length)

    def web(self):
        """gRPC-Web and the HTTP endpoint over HTTP/1.1, as browsers use them."""
        room = self.room("silent")
        answer = self.web_call("GetRoom", self.service.GetRoomRequest(room_id=room))
        flags, body = self.web_frame(answer)
        check(flags == 0 and self.service.GetRoomResponse.FromString(body).room.room_id == room, "the room")
        flags, body = self.web_frame(answer)
        check(flags == 0x80 and b"grpc-status:0" in body.replace(b" ", b""), f"the trailers: {body}")
        answer = self.web_call("Subscribe", self.service.SubscribeRequest(room_id=room))
        # the first frame comes while the call is open: nobody buffers the answer
        flags, body = self.web_frame(answer)
        check(self.service.SubscribeResponse.FromString(body).HasField("opened"), "the first frame")
        connection = self.http()
        connection.request("GET", f"/rooms/{room}/history?limit=1")
        answer = connection.getresponse()
        check(answer.status == 200 and base64.b64encode(b"first") in answer.read(), f"history: {answer.status}")

    async def publish_on(self, room, stop):
        """Publishes one message after the other, each until it is acknowledged; returns their number, and how many calls
        failed."""
        number = failed = 0
        while not stop.is_set():
            request = self.service.PublishRequest(room_id=room, payload=str(number).encode(), message_id=f"id-{number}")
            try:
                await self.rooms.Publish(request, timeout=SOON)
                number += 1
            except grpc.aio.AioRpcError as error:
                check(error.code() == grpc.StatusCode.UNAVAILABLE, f"{error.code()} {error.details()}")
                failed += 1
                check(failed < 200, "calls fail and fail")
                await asyncio.sleep(0.05)
        return number, failed

    async def follow(self, room, count):
        """Subscribes again after each end, until as many messages as `count` says have come; returns them."""
        seen = []
        while True:
            start = self.subscription.Start(after_sequence=len(seen))
            frames = self.rooms.Subscribe(self.service.SubscribeRequest(room_id=room, start=start))
            try:
                async for frame in frames:
                    if frame.HasField("message"):
                        seen.append(frame.message.payload)
                        check(frame.message.sequence == len(seen), "no message is missing")
                    if count.done() and len(seen) >= count.result():
                        frames.cancel()
                        return seen
            except grpc.aio.AioRpcError as error:
                check(error.code() == grpc.StatusCode.UNAVAILABLE, f"{error.code()} {error.details()}")
                await asyncio.sleep(0.05)

    async def rolling_restart(self, restart):
        """Both instances are replaced, one after the other, under load."""
        room = self.room("rolling")
        await self.create(room)
        stop, count = asyncio.Event(), asyncio.get_running_loop().create_future()
        publishing = asyncio.create_task(self.publish_on(room, stop))
        following = asyncio.create_task(self.follow(room, count))
        await restart()
        await asyncio.sleep(1)
        stop.set()
        number, failed = await publishing
        # the last message wakes the reader
        await self.rooms.Publish(self.service.PublishRequest(room_id=room, payload=b"end", message_id="end"), timeout=SOON)
        count.set_result(number + 1)
        await self.rooms.Publish(self.service.PublishRequest(room_id=room, payload=b"after"), timeout=SOON)
        seen = await asyncio.wait_for(following, SOON)
        check(seen[: number + 1] == [*(str(one).encode() for one in range(number)), b"end"], "every message once, in order")
        print(f"{self.name}: a rolling restart: {number} messages, {failed} calls to repeat", flush=True)

    async def all(self, restart):
        await self.create(self.room("silent"))
        silent = asyncio.gather(
            self.silent_publisher(), self.silent_consumer(), self.silent_health(), self.silent_subscriber()
        )
        await self.upload()
        await self.many_streams()
        await asyncio.to_thread(self.web)
        await silent
        print(f"{self.name}: streams were silent for {SILENCE} s", flush=True)


async def impatient(behind):
    """Without the timeouts of deploy/nginx/ the proxy ends a silent publisher."""
    await behind.create(behind.room("silent"))
    try:
        await behind.silent_publisher()
    except (Failed, grpc.aio.AioRpcError, asyncio.InvalidStateError):
        print("nginx without the timeouts ends a silent stream, as it must for this check", flush=True)
        return
    raise Failed("nginx without the timeouts keeps a silent stream: the check above shows nothing")


async def run(unibus, nats_server, proxies, directory):
    modules = generated(directory)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{directory}/key.pem",
         "-out", f"{directory}/certificate.pem"], check=True, capture_output=True)
    processes = Processes(directory)
    nats_port, backends, admins = free_port(), [free_port(), free_port()], [free_port(), free_port()]

    def start(number):
        processes.start(f"unibus-{number + 1}", [
            unibus, "--listen", f"127.0.0.1:{backends[number]}", "--admin-listen", f"127.0.0.1:{admins[number]}",
            "--nats-url", f"nats://127.0.0.1:{nats_port}", "--max-connections-per-address", "0",
            # the pings of the service would be signs of life on a silent stream
            "--keepalive-interval", "10m",
        ])

    async def ready(number):
        # this is also what a container's health check does
        probe = [unibus, "healthcheck", "--admin-listen", f"127.0.0.1:{admins[number]}"]
        await until(f"instance {number + 1}", lambda: subprocess.run(probe, capture_output=True, check=True))

    async def restart():
        for number in range(2):
            status = await asyncio.to_thread(processes.stop, f"unibus-{number + 1}")
            check(status == 0, f"instance {number + 1} ended with {status}")
            start(number)
            await ready(number)
            # the proxies try the instance again after two seconds
            await asyncio.sleep(3)

    try:
        processes.start("nats", [nats_server, "-js", "-sd", f"{directory}/store", "-a", "127.0.0.1", "-p", str(nats_port)])
        for number in range(2):
            start(number)
        for number in range(2):
            await ready(number)
        behind, impatient_port = [], free_port()
        if "nginx" in proxies:
            port = free_port()
            pathlib.Path(directory, "nginx.conf").write_text(nginx_config(directory, backends, port, impatient_port))
            processes.start("nginx", [proxies["nginx"], "-p", directory, "-c", f"{directory}/nginx.conf"])
            behind.append(Behind("nginx", port, modules, directory))
        if "envoy" in proxies:
            port = free_port()
            pathlib.Path(directory, "envoy.yaml").write_text(envoy_config(directory, backends, port, free_port()))
            processes.start("envoy", [proxies["envoy"], "--config-path", f"{directory}/envoy.yaml", "--concurrency", "2",
                                      "--use-dynamic-base-id"])
            behind.append(Behind("envoy", port, modules, directory))
        for one in behind:
            await until(one.name, lambda one=one: processes.listens(one.name, one.port))
            # until the proxy knows that the instances are healthy
            await one.rooms.ListRooms(one.service.ListRoomsRequest(), timeout=SOON, wait_for_ready=True)
        checks = [impatient(Behind("impatient", impatient_port, modules, directory))] if "nginx" in proxies else []
        await asyncio.gather(*checks, *(one.all(restart) for one in behind))
        for one in behind:
            await one.rolling_restart(restart)
    except BaseException:
        processes.show()
        raise
    finally:
        processes.kill()


def main():
    unibus, nats_server, *named = sys.argv[1:]
    proxies = dict(one.split("=", 1) for one in named)
    directory = tempfile.mkdtemp(prefix="unibus-proxies-")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    try:
        asyncio.run(run(os.path.abspath(unibus), os.path.abspath(nats_server), proxies, directory))
    except Failed as failed:
        sys.exit(f"failed: {failed}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
