"""A PostgreSQL cluster of our own and an MLflow server on it, for as long as a test wants them. No system service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).resolve().parent.parent / "mlflow" / "compose.yaml"
PASSWORD = "it's a %40 secret"  # neither a shell nor a URI may look into it
LOOPBACK = "127.0.0.1"
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def find_postgres() -> Path | None:
    """Folder of PostgreSQL's server programs, which Debian keeps off the PATH; None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def free_port() -> int:
    """A port on loopback at which nobody listens."""
    with closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@contextmanager
def run_postgres(programs: Path) -> Iterator[int]:
    """Run a fresh cluster with the database and user ``mlflow`` at a port of loopback, as a user who is not root."""
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="shutterless-postgres-"))  # pytest's own is closed to other users
    try:
        if owner:
            shutil.chown(folder, "postgres", "postgres")
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        subprocess.run(
            [
                programs / "initdb", "--pgdata", folder / "data", "--username=mlflow", "--auth=scram-sha-256",
                f"--pwfile={password}", "--encoding=UTF8", "--no-locale", "--no-sync",
            ],
            check=True, capture_output=True, cwd=folder, **owner,
        )  # fmt: skip
        port = free_port()
        arguments = ["-D", folder / "data", "-h", LOOPBACK, "-p", str(port), "-k", folder, "-F"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([programs / "postgres", *arguments], cwd=folder, stdout=log, stderr=log, **owner)
        with _stopping(server):
            _create_database(programs, port, server, folder / "log")
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create_database(programs: Path, port: int, server: subprocess.Popen, log: Path) -> None:
    command = [programs / "createdb", "-h", LOOPBACK, "-p", str(port), "-U", "mlflow", "--maintenance-db=postgres"]
    for _ in range(300):
        done = subprocess.run(
            [*command, "mlflow"], env={**os.environ, "PGPASSWORD": PASSWORD}, capture_output=True, check=False
        )
        if done.returncode == 0:
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {done.stderr.decode()}{log.read_text()}")


def compose_server() -> tuple[list[str], dict[str, str]]:
    """Command and environment of the server in ``mlflow/compose.yaml``, every variable at its default."""
    service = yaml.safe_load(COMPOSE.read_text())["services"]["server"]
    environment = {name: interpolate(value, {"POSTGRES_PASSWORD": PASSWORD})
                   for name, value in service["environment"].items()}  # fmt: skip
    return list(service["command"]), environment


def interpolate(text: str, values: Mapping[str, str]) -> str:
    """Fill in ``${NAME:-default}`` and ``${NAME:?message}`` as Compose does."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if values.get(name):
            return values[name]
        if kind == ":?":
            raise ValueError(f"{name}: {rest}")
        return rest

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", fill, text)


@contextmanager
def run_mlflow(postgres_port: int, artifacts: Path) -> Iterator[str]:
    """Run the server of the compose file, without its container, and give its address once it answers."""
    port = free_port()
    command, environment = compose_server()
    changed = {
        "@database:5432/": f"@{LOOPBACK}:{postgres_port}/", "=/artifacts": f"={artifacts}", "=0.0.0.0": f"={LOOPBACK}",
        "--port=5000": f"--port={port}", "--workers=2": "--workers=1",
    }  # fmt: skip
    for old, new in changed.items():
        assert any(old in argument for argument in command), f"{COMPOSE} no longer has {old}"
        command = [argument.replace(old, new) for argument in command]
    log = artifacts.parent / "server.log"
    program = [sys.executable, "-m", *command] if command[0] == "mlflow" else command
    with log.open("wb") as out:
        server = subprocess.Popen(
            program, cwd=artifacts.parent, env={**os.environ, **environment}, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    with _stopping(server, group=True):
        url = f"http://{LOOPBACK}:{port}"
        _wait_for(url, server, log)
        yield url


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), _NO_PROXY.open(f"{url}/health", timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the MLflow server did not start: {log.read_text()}")


@contextmanager
def _stopping(process: subprocess.Popen, *, group: bool = False) -> Iterator[None]:
    """Stop a process when the block ends, PostgreSQL by its fast stop, a group, which has no state, at once."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if not group:
                process.send_signal(signal.SIGINT)
                process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
        process.wait()


@dataclass
class Cable:
    """A connection to a server that can be pulled: forwards a port of its own until it is cut."""

    address: str
    _listener: socket.socket
    _open: list[socket.socket]

    def cut(self) -> None:
        """Nobody answers any more, and connections that were open are reset."""
        for one in [self._listener, *self._open]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def lay_cable(url: str, host: str = LOOPBACK) -> Iterator[Cable]:
    """Forward a free port of ``host`` to a server."""
    target = int(url.rsplit(":", 1)[1])
    listener = socket.create_server((host, 0))
    cable = Cable(f"http://{host}:{listener.getsockname()[1]}", listener, [])

    def accept() -> None:
        with suppress(OSError):  # the cable was cut
            while True:
                near, far = listener.accept()[0], socket.create_connection((LOOPBACK, target))
                cable._open.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield cable
    finally:
        cable.cut()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
