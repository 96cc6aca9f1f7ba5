"""What is deployed, in which order, with which arguments; refuses terms that cannot be meant."""

from __future__ import annotations

from dataclasses import dataclass

import rlp  # type: ignore[import-untyped]
from assay.chain.client import ChainClient
from assay.chain.errors import RpcError
from assay.commitments.identifiers import checksum_address, keccak
from assay.errors import AssayError, ConfigurationError
from assay.exact.dispute import MAX_MOVES
from assay.types import ZERO_ADDRESS, Address

LOCAL_CHAINS = {31337, 1337}
DAY = 86_400
MAX_PERIOD = 365 * DAY
MAX_FEE_BPS = 500
MAX_STAKE = 2**96 - 1
MOCK = "mocks/MockToken.vy"
MOCK_ARGUMENTS = {"name": "Assay Test Token", "symbol": "TEST"}

EXPLORERS = {
    1: "https://etherscan.io/address/",
    11155111: "https://sepolia.etherscan.io/address/",
    8453: "https://basescan.org/address/",
    84532: "https://sepolia.basescan.org/address/",
}


@dataclass(frozen=True)
class Terms:
    """What the contracts are constructed with. `token` None: deploy the mock. Periods in seconds."""

    token: Address | None
    owner: Address
    treasury: Address
    has_disputes: bool
    min_stake: int
    fee_bps: int
    dispute_window: int
    escrow_thaw: int
    node_thaw: int
    bond: int
    slash_amount: int
    move_window: int


@dataclass(frozen=True)
class Step:
    """One contract: name in the deployment folder, source below `contracts/`, its arguments' names."""

    name: str
    source: str
    arguments: tuple[str, ...]


GAME = "DisputeGame"
STEPS = (
    Step("ModelRegistry", "ModelRegistry.vy", ("owner",)),
    Step("StepVerifier", "StepVerifier.vy", ()),
    Step("NodeRegistry", "NodeRegistry.vy", ("token", "dispute_game", "owner", "min_stake", "thaw_period")),
    Step(
        "Settlement",
        "Settlement.vy",
        (
            *("token", "models", "nodes", "dispute_game", "owner", "treasury"),
            *("fee_bps", "dispute_window", "escrow_thaw_period"),
        ),
    ),
    Step(
        GAME,
        "DisputeGame.vy",
        (*("token", "models", "nodes", "settlement", "verifier"), *("bond", "slash_amount", "move_window")),
    ),
)
DISPUTE_STEPS = ("StepVerifier", GAME)
"""Left out where nobody can dispute."""


WHY = {
    "--node-thaw": " (stake must stay slashable for the dispute window and the longest dispute, which is "
    f"{MAX_MOVES} move windows)",
    "--slash-amount": " (from twice --bond, so that winning pays, to --min-stake, so that it can be taken)",
}


def check_terms(terms: Terms, *, is_local: bool) -> None:
    """Raises `ConfigurationError` that names the option."""
    longest = terms.move_window * MAX_MOVES if terms.has_disputes else 0
    bounds: tuple[tuple[str, int, int, int], ...] = (
        ("--fee-bps", terms.fee_bps, 0, MAX_FEE_BPS),
        ("--min-stake", terms.min_stake, 1, MAX_STAKE),
        ("--dispute-window", terms.dispute_window, 1, MAX_PERIOD),
        ("--escrow-thaw", terms.escrow_thaw, 1, MAX_PERIOD),
        ("--move-window", terms.move_window, 1, MAX_PERIOD // MAX_MOVES),
        ("--node-thaw", terms.node_thaw, terms.dispute_window + longest, MAX_PERIOD),
    )
    if terms.has_disputes:
        bounds += (
            ("--bond", terms.bond, 1, MAX_STAKE),
            ("--slash-amount", terms.slash_amount, 2 * terms.bond, terms.min_stake),
        )
    for option, value, least, most in bounds:
        if not least <= value <= most:
            why = WHY.get(option, "")
            raise ConfigurationError(f"{option} {value} is outside {least}…{most}{why}; choose another")
    if terms.owner == ZERO_ADDRESS or terms.treasury == ZERO_ADDRESS:
        raise ConfigurationError("--owner and --treasury must not be the zero address")
    if terms.token is None and not is_local:
        raise ConfigurationError(
            "this is a public network: name an existing ERC-20 with --token; the mock token, which "
            "anyone can mint, is deployed on local chains alone"
        )


def check_token(client: ChainClient, token: Address) -> None:
    """Raises `ConfigurationError` unless something there answers like an ERC-20."""
    if not client.get_code(token):
        raise ConfigurationError(f"--token {token} has no code on chain {client.chain_id}; another chain's?")
    try:
        answer = client.call(token, bytes.fromhex("18160ddd"))  # totalSupply()
    except (RpcError, AssayError) as error:
        raise ConfigurationError(f"--token {token} does not answer totalSupply(): {error}") from error
    if len(answer) != 32:
        raise ConfigurationError(f"--token {token} is no ERC-20: totalSupply() answers {len(answer)} bytes")


def created_address(sender: Address, nonce: int) -> Address:
    """Where the contract created by `sender`'s transaction `nonce` will be: keccak of the RLP of both."""
    packed: bytes = rlp.encode([bytes.fromhex(sender[2:]), nonce])
    return checksum_address("0x" + keccak(packed)[12:].hex())


def arguments_of(
    step: Step, terms: Terms, addresses: dict[str, Address], dispute_game: Address
) -> dict[str, object]:
    """The step's constructor arguments by name, in order; `addresses` holds what is deployed before it.

    `dispute_game`: where the game is, or will be; registries and Settlement learn it before it exists.
    """
    values: dict[str, object] = {
        "token": addresses.get("Token"),
        "models": addresses.get("ModelRegistry"),
        "nodes": addresses.get("NodeRegistry"),
        "settlement": addresses.get("Settlement"),
        "verifier": addresses.get("StepVerifier"),
        "dispute_game": dispute_game,
        "owner": terms.owner,
        "treasury": terms.treasury,
        "min_stake": terms.min_stake,
        "fee_bps": terms.fee_bps,
        "dispute_window": terms.dispute_window,
        "thaw_period": terms.node_thaw,
        "escrow_thaw_period": terms.escrow_thaw,
        "bond": terms.bond,
        "slash_amount": terms.slash_amount,
        "move_window": terms.move_window,
    }
    return {name: values[name] for name in step.arguments}
