"""A server under clients that send slowly, break off, send too much or nothing: is a client that behaves answered?

python benchmarks/bad_clients.py [--clients 50] [--seconds 60]
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shutterless.models.families import load_model
from shutterless.pipeline.tokens import STRIP_ARRAYS
from shutterless.workflows.serving.tasks import example_strips
from shutterless.workflows.tracking.tracking import resolve_model

MODEL = "bundled-transformer"
HEAD = "POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


def send_slowly(connection: socket.socket, stop: threading.Event) -> None:
    """A byte a second of a body that is announced as small."""
    connection.sendall(HEAD.format(50_000).encode())
    while not stop.wait(1.0):
        connection.sendall(b" ")


def send_half(connection: socket.socket, _: threading.Event) -> None:
    """Half of a request, and away."""
    connection.sendall(HEAD.format(10_000).encode() + b'{"patches": [[')


def send_headers_slowly(connection: socket.socket, stop: threading.Event) -> None:
    """A line of headers a second, without an end."""
    connection.sendall(b"POST /score HTTP/1.1\r\n")
    while not stop.wait(1.0):
        connection.sendall(b"X-Filler: 1\r\n")


def send_too_much(connection: socket.socket, stop: threading.Event) -> None:
    """A body of 10 GB, as fast as it is taken."""
    connection.sendall(HEAD.format(10_000_000_000).encode())
    while not stop.is_set():
        connection.sendall(bytes(1 << 16))


def send_large(connection: socket.socket, _: threading.Event) -> None:
    """60 MB that are no strips, just below the limit."""
    body = b'{"patches": "' + b"x" * 60_000_000 + b'"}'
    connection.sendall(HEAD.format(len(body)).encode() + body)
    connection.recv(1000)


def send_deep(connection: socket.socket, _: threading.Event) -> None:
    """JSON that is nested a million deep."""
    body = b"[" * 1_000_000
    connection.sendall(HEAD.format(len(body)).encode() + body)
    connection.recv(1000)


def send_noise(connection: socket.socket, _: threading.Event) -> None:
    """Bytes that are no HTTP."""
    connection.sendall(random.randbytes(4096))
    connection.recv(1000)


def send_nothing(_: socket.socket, stop: threading.Event) -> None:
    """A connection that is left open."""
    stop.wait(5.0)


BAD: tuple[Callable[[socket.socket, threading.Event], None], ...] = (
    send_slowly, send_half, send_headers_slowly, send_too_much, send_large, send_deep, send_noise, send_nothing,
)  # fmt: skip


def misbehave(
    port: int, how: Callable[[socket.socket, threading.Event], None], stop: threading.Event, done: Counter
) -> None:
    """Do the same bad thing again and again."""
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                how(connection, stop)
        except OSError:
            pass
        done[how.__name__] += 1
        stop.wait(0.02)


def ask(port: int, body: bytes, timeout_s: float) -> int:
    """Status of a good request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", "/score", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def behave(port: int, body: bytes, seconds: float) -> tuple[list[float], Counter]:
    """Seconds until each good request was answered with scores, with retries after 503; and all statuses."""
    waits, statuses, end = [], Counter(), time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        status = 0
        while status != 200 and time.monotonic() < started + 60:
            try:
                status = ask(port, body, 60)
            except OSError:
                status = -1
            statuses[status] += 1
            if status != 200:
                time.sleep(0.3)
        waits.append(time.monotonic() - started)
        time.sleep(0.2)
    return waits, statuses


def main() -> int:
    """Print how long good requests take without bad clients and among them; exit code 1 if one was not answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    strips = example_strips(load_model(resolve_model(MODEL, None)).grid)
    body = json.dumps({name: getattr(strips, name).tolist() for name in STRIP_ARRAYS}).encode()
    command = [sys.executable, "-m", "shutterless.workflows.cli", "serve", "--model", MODEL, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            port = int(re.search(r":(\d+)$", server.stdout.readline().strip())[1])
            while ask(port, body, 60) != 200:
                time.sleep(1)
            report("alone", *behave(port, body, asked.seconds / 6))
            stop, done = threading.Event(), Counter()
            threads = [
                threading.Thread(target=misbehave, args=(port, BAD[k % len(BAD)], stop, done), daemon=True)
                for k in range(asked.clients)
            ]
            for thread in threads:
                thread.start()
            waits, statuses = behave(port, body, asked.seconds)
            stop.set()
            report(f"among {asked.clients} bad clients", waits, statuses)
            print("bad requests:", ", ".join(f"{name} {n}" for name, n in sorted(done.items())))
            print(f"memory of the server's own process: {peak_mib(server.pid)} MiB at its peak")
        finally:
            server.kill()
    return int(statuses[200] < len(waits))


def report(what: str, waits: list[float], statuses: Counter) -> None:
    """Print the answers of a client that behaves."""
    print(
        f"{what}: {statuses[200]} of {len(waits)} good requests answered, median {np.median(waits):.2f} s, longest "
        f"{max(waits):.2f} s; statuses {dict(statuses)}",
        flush=True,
    )


def peak_mib(pid: int) -> int:
    """Peak memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
