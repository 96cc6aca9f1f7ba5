"""A real PostgreSQL of the tests' own: a temporary cluster on a free loopback port, fsync on, ended by its
pid.

with cluster() as server:
    url = server.new_database()
    server.terminate_backends(url); server.crash(); server.start()
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

START_SECONDS = 30.0
STOP_SECONDS = 30.0
MIN_MEMORY = 4 << 30
CURE = "PostgreSQL is not installed; `apt-get install postgresql` (Debian), or put its initdb on PATH"
HBA = """\
local all all trust
host all locked 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "80",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
}


def find_binaries() -> Path | None:
    """The folder that has `initdb` and `postgres`: on PATH, by pg_config, or where Debian puts them."""
    candidates = []
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(asked.stdout.strip() or "."))
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(versions, key=lambda path: int(path.parent.name.split(".")[0]), reverse=True)
    return next((folder for folder in candidates if (folder / "initdb").exists()), None)


def unprivileged_user() -> str | None:
    """Whom to run the server as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@dataclass
class Cluster:
    """A server; `url` of a database of it is what `[log] url` takes."""

    binaries: Path
    folder: Path
    port: int
    user: str | None
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = "assay") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.binaries / "postgres",
                    "-D",
                    self.folder / "data",
                    "-k",
                    self.folder,
                    "-p",
                    str(self.port),
                ],
                stdout=log,
                stderr=log,
                user=self.user,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = (self.folder / "server.log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL does not start:\n{text[-2000:]}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Orderly, whoever is connected."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """As if the machine had failed: no checkpoint; the next start recovers from the log of writes."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def new_database(self) -> str:
        name = f"assay_test_{uuid.uuid4().hex[:12]}"
        self.run(f'CREATE DATABASE "{name}"')
        return self.url(name)

    @contextlib.contextmanager
    def schema(self) -> Iterator[str]:
        """The URL of an empty schema of the first database: made at once, where a database takes a second."""
        name = f"assay_test_{uuid.uuid4().hex[:12]}"
        self.run(f'CREATE SCHEMA "{name}"')
        try:
            yield f"{self.url()}?options=-csearch_path%3D{name}"
        finally:
            self.run(f'DROP SCHEMA "{name}" CASCADE')

    def drop_database(self, url: str) -> None:
        self.run(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" (FORCE)')

    def terminate_backends(self, url: str, where: str = "true") -> int:
        """End the server's side of the connections to a database; how many there were."""
        name = url.rpartition("/")[2]
        rows = self.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> "
            "pg_backend_pid()"
            f" AND datname = '{name}' AND {where}"
        )
        return len(rows)

    def run(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A new one, removed at the end. Raises FileNotFoundError, with the cure, if none is installed."""
    binaries = find_binaries()
    if binaries is None:
        raise FileNotFoundError(CURE)
    user = unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="assay-pg-", dir=_fast_folder()))
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        options = ["-U", "assay", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", *options],
            check=True,
            capture_output=True,
            user=user,
            cwd=folder,
        )
        (folder / "data" / "pg_hba.conf").write_text(HBA)
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
        made = Cluster(binaries, folder, _free_port(), user)
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fast_folder() -> Path | None:
    """In memory, where there is room: tests end processes, not machines, and a loaded disk takes its time."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= MIN_MEMORY:
        return memory
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
