"""Runs the image of the Dockerfile without a container engine.

    image.py UNIBUS BUSYBOX

Makes the file system of the last stage: the files that it copies, and of the base image the C library, users and devices.
The nats-server comes from the command of its stage, run as it stands. The program of the build stage is UNIBUS. The
entry point then runs as process 1 of namespaces of its own, on a read-only file system, with the user and the variables of
the Dockerfile: it must refuse to listen for other machines without authentication; else it must become healthy with its
embedded nats-server, and end with 0 on SIGTERM.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEALTHY_SECONDS = 60
STOP_SECONDS = 40
# Prepares the namespaces, and becomes the entry point. $1 is the file system, $2 the volume, $3 the user.
INIT = """
ip link set lo up
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --bind "$1/../volume" "$1$2"
mount -o remount,ro,bind "$1"
root=$1 user=$3
shift 3
exec chroot --userspec="$user" "$root" "$@"
"""


def instructions():
    """The instructions of the Dockerfile, each with its stage."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage, found = "", []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        name, rest = line.split(None, 1)
        if name == "FROM":
            stage = rest.split(" AS ")[1] if " AS " in rest else "image"
        found.append((stage, name, rest))
    return found


def nats_server(listed, directory):
    """Runs the commands of the stage that brings the nats-server."""
    where = directory / "nats"
    (where / "src/.cargo").mkdir(parents=True)
    shutil.copy(ROOT / ".cargo/runner", where / "src/.cargo/runner")
    commands = [rest for stage, name, rest in listed if (stage, name) == ("nats", "RUN")]
    assert len(commands) == 1, commands
    command = commands[0].replace(" /out/", f" {where}/out/").replace("=/tmp ", f"={where}/tmp ")
    env = {name: value for name, value in os.environ.items() if name != "UNIBUS_NATS_SERVER"}
    # without the nats-server that may be on this machine
    env["PATH"] = ":".join(path for path in env["PATH"].split(":") if not pathlib.Path(path, "nats-server").exists())
    subprocess.run(["sh", "-c", command], cwd=where / "src", env=env, check=True, timeout=300)
    return where / "out/nats-server"


def libraries(program):
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = re.findall(r"(/\S+) \(0x", listed)
    # what the base image has: gcr.io/distroless/cc-debian12
    names = {re.sub(r"\.so.*", "", pathlib.Path(path).name) for path in paths}
    allowed = {"libc", "libm", "libgcc_s", "ld-linux-x86-64", "libpthread", "libdl", "librt"}
    assert names <= allowed, f"the base image has no {names - allowed}"
    return paths


def make(listed, sources, root):
    for directory in ["proc", "dev", "tmp", "etc", "bin", "lib64", "usr/local/bin"]:
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")
    os.mknod(root / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
    (root / "dev/null").chmod(0o666)
    for stage, name, rest in listed:
        if (stage, name) != ("image", "COPY"):
            continue
        words = rest.split()
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        source, target = [word for word in words if not word.startswith("--")]
        target = root / target.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        local = sources[options["from"], source]
        if local is None:
            target.mkdir()
        else:
            shutil.copy(local, target)
        if "chown" in options:
            os.chown(target, *map(int, options["chown"].split(":")))
        if "chmod" in options:
            target.chmod(int(options["chmod"], 8))


class Container:
    def __init__(self, root, image, env, log):
        env = {**image["env"], **env, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.image, self.env, self.log = image, env, log
        command = ["unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child", "sh", "-ec", INIT, "init",
                   str(root), image["volume"], image["user"], *image["entrypoint"]]
        full = {**env, "PATH": os.environ["PATH"]}
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, env=full, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def init(self):
        """The process id of process 1."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return children[0] if children else None

    def is_healthy(self):
        if not (pid := self.init()):
            return False
        user, group = self.image["user"].split(":")
        command = ["nsenter", "--target", pid, "--mount", "--pid", "--net", "--root", "--wd", "--setuid", user,
                   "--setgid", group, *self.image["healthcheck"]]
        return subprocess.run(command, env=self.env, capture_output=True).returncode == 0

    def printed(self):
        return self.log.read_text(errors="replace")


def run(root, image, log):
    refusing = Container(root, image, {}, log)
    status = refusing.process.wait(HEALTHY_SECONDS)
    assert status == 1 and "auth" in refusing.printed(), f"{status}, although it listens for everybody: {refusing.printed()}"

    container = Container(root, image, {"UNIBUS_AUTH_INSECURE": "true"}, log)
    try:
        end = time.monotonic() + HEALTHY_SECONDS
        while not container.is_healthy():
            assert container.process.poll() is None, f"it ended: {container.printed()}"
            assert time.monotonic() < end, f"it does not become healthy: {container.printed()}"
            time.sleep(0.2)
        assert list((root.parent / "volume").iterdir()), "the data is in the volume"
        os.kill(int(container.init()), signal.SIGTERM)
        status = container.process.wait(STOP_SECONDS)
        assert status == 0, f"it ended with {status} after SIGTERM: {container.printed()}"
    finally:
        if container.process.poll() is None:
            container.process.kill()
            container.process.wait()


def main():
    unibus, busybox = sys.argv[1:]
    directory = pathlib.Path(tempfile.mkdtemp(prefix="unibus-image-"))
    try:
        listed = instructions()
        of_image = {name: rest for stage, name, rest in listed if stage == "image" and name != "COPY"}
        image = {
            "env": dict(one.split("=", 1) for one in of_image["ENV"].split()),
            "user": of_image["USER"],
            "volume": of_image["VOLUME"],
            "entrypoint": json.loads(of_image["ENTRYPOINT"]),
            "healthcheck": json.loads(of_image["HEALTHCHECK"].split(" CMD ")[1]),
        }
        assert image["user"].split(":")[0] not in ("0", "root"), "the image runs as root"
        sources = {
            ("nats", "/out/nats-server"): nats_server(listed, directory),
            ("build", "/out/unibus"): unibus,
            ("build", "/out/data"): None,
            ("shell", "/bin/busybox"): busybox,
        }
        root = directory / "root"
        root.mkdir()
        # a container's files are readable whatever the mask of this machine is
        os.umask(0o022)
        make(listed, sources, root)
        for library in libraries(unibus):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        volume = directory / "volume"
        volume.mkdir(mode=0o700)
        found = (root / image["volume"].lstrip("/")).stat()
        # as a new volume, which gets owner and mode from the image
        os.chown(volume, found.st_uid, found.st_gid)
        volume.chmod(found.st_mode & 0o7777)
        directory.chmod(0o755)
        run(root, image, directory / "log")
        print("the image refuses strangers, becomes healthy, and stops in order")
    except AssertionError as problem:
        sys.exit(f"failed: {problem}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
