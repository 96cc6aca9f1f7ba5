"""x402 in tests: the facilitator as a process, and the package's own client as the paying consumer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.chain.keys import create_keystore
from assay.commitments.authorizations import Authorization, TokenDomain, authorization_digest
from assay.commitments.signing import SigningKey
from assay.types import Address, Hash32

ROOT = Path(__file__).resolve().parents[2]
ASSAY = (sys.executable, "-c", "from assay.cli import main; main()")
PASSWORD = "correct horse"
WEI = 10**18


@dataclass
class RunningFacilitator:
    """A process with a funded key of its own. `kill` ends it; `start` again goes on with what it sent."""

    chain: Any
    deployments: Path
    folder: Path
    options: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[str] | None = None
    address: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        keystore = self.folder / "key.json"
        if not keystore.exists():
            self.address = create_keystore(keystore, PASSWORD, scrypt_n=2).address
            (self.folder / "password").write_text(PASSWORD + "\n")
            self.chain.set_balance(self.address, WEI)
        given = {
            "account": keystore,
            "password-file": self.folder / "password",
            "rpc": self.chain.url,
            "deployments": self.deployments,
            "data": self.folder,
            "port": self.port,
        }
        command = [*ASSAY, "facilitator", "run", "--json", *self.options]
        for name, value in given.items():
            command += [f"--{name}", str(value)]
        with (self.folder / "facilitator.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError((self.folder / "facilitator.log").read_text())
            said += line
        self.port = int(json.loads(said)["url"].rpartition(":")[2])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@contextlib.contextmanager
def running_facilitator(
    chain: Any, deployments: Path, folder: Path, *options: str
) -> Iterator[RunningFacilitator]:
    """`deployments`: the folder that holds one a chain."""
    folder.mkdir(parents=True, exist_ok=True)
    made = RunningFacilitator(chain, deployments, folder, options)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def payment_body(
    key: SigningKey, domain: TokenDomain, authorization: Authorization, **changes: Any
) -> dict[str, Any]:
    """What a facilitator is asked: payload and requirements of one payment by `key`."""
    wanted = {
        "scheme": "exact",
        "network": f"eip155:{domain.chain_id}",
        "asset": domain.token,
        "amount": str(authorization.value),
        "payTo": authorization.payee,
        "maxTimeoutSeconds": 60,
        "extra": {"name": domain.name, "version": domain.version, "assetTransferMethod": "eip3009"},
    } | changes
    payload = {
        "authorization": {
            "from": authorization.payer,
            "to": authorization.payee,
            "value": str(authorization.value),
            "validAfter": str(authorization.valid_after),
            "validBefore": str(authorization.valid_before),
            "nonce": "0x" + authorization.nonce.hex(),
        },
        "signature": "0x" + key.sign(authorization_digest(domain, authorization)).hex(),
    }
    return {
        "x402Version": 2,
        "paymentPayload": {"x402Version": 2, "accepted": wanted, "payload": payload},
        "paymentRequirements": wanted,
    }


def token_domain(token: Any) -> TokenDomain:
    """Of a deployed token that has EIP-5267."""
    _, name, version, chain_id, address, _, _ = token.read("eip712Domain")
    return TokenDomain(name, version, chain_id, Address(address))


def authorize(key: SigningKey, payee: str, value: int, before: int, nonce: int = 1) -> Authorization:
    return Authorization(key.address, Address(payee), value, 0, before, Hash32(nonce.to_bytes(32, "big")))


def documented_infer() -> Any:
    """`infer` of the operators' page: the package's own client, as readers are told to use it."""
    text = (ROOT / "backend" / "operations" / "x402.md").read_text()
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # web3 7 asks websockets for its older interface
        exec(text.split("```python\n")[1].split("```")[0], names)
    return names["infer"]
