"""A real Anvil process on a free loopback port, for tests, benches and the demo.

    with anvil(chain_id=31337) as chain:
        chain.request("eth_blockNumber"); chain.mine(3); chain.increase_time(3600); chain.kill()

The native binary is started directly (not npm's wrapper), so that ending the pid ends the chain.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0

# Anvil's published development accounts (mnemonic "test test … junk"); worthless anywhere else.
KEYS = (
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
    "dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    "2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
)
ACCOUNTS = (
    "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
    "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
    "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
    "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
    "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
    "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
    "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
)


def find_anvil() -> Path:
    """The native binary of the locked npm package, whatever the working directory; else npm's wrapper."""
    system = {"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}.get(platform.system(), "linux")
    machine = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine()
    )
    name = "anvil.exe" if system == "win32" else "anvil"
    native = ROOT / "node_modules" / "@foundry-rs" / f"anvil-{system}-{machine}" / "bin" / name
    wrapper = ROOT / "node_modules" / ".bin" / "anvil"
    for candidate in (native, wrapper):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        "Anvil is not installed: run `scripts/test` or `npm ci --ignore-scripts` in the repository"
    )


@dataclass
class Anvil:
    """A running chain. `accounts[i]` is controlled by `keys[i]` (hex without 0x)."""

    url: str
    port: int
    chain_id: int
    process: subprocess.Popen[bytes]
    accounts: tuple[str, ...] = ACCOUNTS
    keys: tuple[str, ...] = KEYS
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 62)))

    @property
    def pid(self) -> int:
        return self.process.pid

    def request(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call over plain urllib; raises RuntimeError on an error object."""
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer = json.load(reply)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def block_number(self) -> int:
        return int(self.request("eth_blockNumber"), 16)

    def timestamp(self) -> int:
        """Unix seconds of the latest block."""
        return int(self.request("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def mine(self, blocks: int = 1, interval: int | None = None) -> None:
        """Mine blocks, `interval` seconds apart."""
        extra = [] if interval is None else [hex(interval)]
        self.request("anvil_mine", hex(blocks), *extra)

    def increase_time(self, seconds: int) -> None:
        """Move the clock on and mine one block there."""
        self.request("evm_increaseTime", hex(seconds))
        self.request("evm_mine")

    def set_automine(self, on: bool) -> None:
        self.request("evm_setAutomine", on)

    def set_balance(self, account: str, wei: int) -> None:
        self.request("anvil_setBalance", account, hex(wei))

    def snapshot(self) -> str:
        return str(self.request("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        self.request("evm_revert", snapshot)

    def reorg(self, depth: int, transactions: list[Any] | None = None) -> None:
        """Replace the last `depth` blocks; their transactions are dropped, as Anvil does."""
        self.request("anvil_reorg", depth, transactions or [])

    def stop(self) -> None:
        """SIGTERM (dumps `state`), then SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def start_anvil(
    *,
    chain_id: int = 31337,
    block_time: float | None = None,
    state: Path | None = None,
    port: int = 0,
    hardfork: str = "cancun",
    arguments: tuple[str, ...] = (),
    log: IO[bytes] | None = None,
) -> Anvil:
    """Start and wait until it listens; the caller stops it. `state` is loaded and dumped on stop."""
    command = [str(find_anvil()), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id)]
    command += ["--hardfork", hardfork, *arguments]
    command += [] if block_time is None else ["--block-time", str(block_time)]
    command += [] if state is None else ["--state", str(state)]
    with contextlib.ExitStack() as stack:
        output = log or stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C is for who started it, and ends it in order
        )
        try:
            bound = _wait_until_listening(process, output)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return Anvil(f"http://127.0.0.1:{bound}", bound, chain_id, process)


@contextlib.contextmanager
def anvil(**options: Any) -> Iterator[Anvil]:
    """`start_anvil` that ends its process whatever happens."""
    chain = start_anvil(**options)
    try:
        yield chain
    finally:
        if chain.process.poll() is None:
            chain.stop()


def _wait_until_listening(process: subprocess.Popen[bytes], output: IO[bytes]) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        text = os.pread(output.fileno(), 1 << 16, 0).decode(errors="replace")
        if found := re.search(r"Listening on \S+:(\d+)", text):
            return int(found[1])
        if process.poll() is not None:
            raise RuntimeError(f"Anvil ended with {process.returncode} before it listened:\n{text}")
        time.sleep(0.02)
    raise TimeoutError(f"Anvil did not listen within {START_SECONDS:.0f} s")
