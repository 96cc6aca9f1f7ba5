"""Child processes with logs: started, watched, killed on purpose, and all ended whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ASSAY = str(Path(sys.executable).parent / "assay")
START_SECONDS = 60.0
STOP_SECONDS = 10.0


class DemoError(RuntimeError):
    """The demo cannot go on; the message says which part failed and where its log is."""


@dataclass
class Service:
    """A running command. It leads a session of its own, so that Ctrl-C reaches this program alone."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Processes:
    """Starts services and ends them in reverse order."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.services: dict[str, Service] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Service:
        """Start `command`; a name used before goes on in the same log."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.services[name] = Service(name, tuple(command), environment, log, process)
        return self.services[name]

    def restart(self, name: str) -> Service:
        """The same command again, after it ended."""
        old = self.services[name]
        return self.start(name, old.command, old.environment)

    def kill(self, name: str) -> None:
        """SIGKILL: no chance to save anything."""
        process = self.services[name].process
        process.kill()
        process.wait(STOP_SECONDS)

    def wait_until_ready(self, name: str, url: str) -> None:
        """Until `url` answers 200. Raises DemoError with the end of the log if that does not come."""
        service = self.services[name]
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if service.process.poll() is not None:
                raise DemoError(
                    f"{name} ended with {service.process.returncode} ({service.log}):\n{service.tail()}"
                )
            try:
                with urllib.request.urlopen(url, timeout=2) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise DemoError(f"{name} did not answer at {url} within {START_SECONDS:.0f} s ({service.log})")

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Run a command to its end and return its standard output. Raises DemoError with what it said."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as errors:
            service = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            self.services[name] = Service(name, tuple(command), environment, log, service)
            output, _ = service.communicate()
        text = output.decode(errors="replace")
        with log.open("a") as file:
            file.write(text)
        if service.returncode:
            shown, end = " ".join(command), self.services[name].tail()
            raise DemoError(f"`{shown}` ended with {service.returncode} ({log}):\n{end}")
        return text

    def stop_all(self) -> None:
        """SIGTERM, then SIGKILL to what is left; each by the id of the session that we started."""
        with uninterrupted():
            running = [s for s in reversed(self.services.values()) if s.process.poll() is None]
            for service in running:
                _signal(service, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            for service in running:
                try:
                    service.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _signal(service, signal.SIGKILL)
                    service.process.wait()


def _signal(service: Service, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(service.process.pid, number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave processes behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def choose_port(preferred: int) -> int:
    """The documented port if it is free, else any free one, on 127.0.0.1."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no port on 127.0.0.1 is free")
