"""Tokens and certificates for scenarios."""

import asyncio
from pathlib import Path

from .matching import Failed


async def output(*command: str) -> str:
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    printed, errors = await running.communicate()
    if running.returncode:
        raise Failed(f"{' '.join(command)} failed: {errors.decode(errors='replace')}")
    return printed.decode()


class Tokens:
    """Makes tokens with a key of its own, by the commands of the service's program."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.key = folder / "tokens.pem"

    async def make_key(self) -> Path:
        """The public key."""
        await output(self.program, "key", "--out", str(self.key))
        return self.key.with_name(f"{self.key.name}.pub")

    async def token(self, sub: str, ttl: str = "1h") -> str:
        made = await output(self.program, "token", "--key", str(self.key), "--sub", sub, "--ttl", ttl)
        return made.strip()


def replace(path: Path, text: str) -> None:
    """Writes a file so that a reader never sees a part of it."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.rename(path)


async def certificates(folder: Path) -> None:
    """Writes a CA (`ca.pem`), and certificates that it signed for the service and for a client (`NAME.pem`, `NAME.key`)."""
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"]
    ca = [str(folder / "ca.pem"), str(folder / "ca.key")]
    ca_subject = ["-subj", "/CN=conformance CA", "-addext", "keyUsage=critical,keyCertSign"]
    await output("openssl", "req", "-x509", *new_key, *ca_subject, "-out", ca[0], "-keyout", ca[1])
    for name, alternative in (("service", "DNS:localhost,IP:127.0.0.1"), ("client", "DNS:alice")):
        extensions = ["-addext", f"subjectAltName={alternative}", "-addext", "basicConstraints=critical,CA:FALSE"]
        signed_by = ["-CA", ca[0], "-CAkey", ca[1]]
        names = ["-out", str(folder / f"{name}.pem"), "-keyout", str(folder / f"{name}.key")]
        await output("openssl", "req", "-x509", *new_key, *signed_by, "-subj", f"/CN={name}", *extensions, *names)
