"""What the consumer's and publisher's commands share: the options of a connection, passwords, amounts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, Inexact, InvalidOperation, localcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from assay.chain.keys import read_password
from assay.client import Client
from assay.errors import ConfigurationError, RequestError
from assay.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")
MAX_DIGITS = 78
"""Of a uint256."""

_OPTIONS = (
    click.option("--account", help="Ape account alias or keystore v3 file; default ASSAY_ACCOUNT"),
    click.option(
        "--password-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="file with the keystore's password; default ASSAY_PASSWORD_FILE, else it is asked for",
    ),
    click.option("--rpc", "rpc_urls", multiple=True, help="RPC URL, repeatable; default ASSAY_RPC_URLS"),
    click.option(
        "--deployments",
        type=click.Path(file_okay=False, path_type=Path),
        help="folder of contract addresses; default ASSAY_DEPLOYMENTS",
    ),
    click.option("--api", "api_url", help="REST API that speeds up look-ups; default ASSAY_API_URL"),
    click.option("--no-api", is_flag=True, help="ask the chain alone"),
)


def _data_option(folder: str, content: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"folder of {content}; default `{folder}` in ASSAY_DATA",
    )


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options and the environment say."""

    settings: Settings
    account: str | None
    password_file: Path | None
    rpc_urls: list[str]
    deployments: Path
    api_url: str | None
    data: Path
    is_api_named: bool = True
    """Whether somebody named the API, or it is the built-in default."""

    def open(self, *, with_key: bool = True) -> Client:
        """A client; with `with_key`, of the account if one is set (asks for its password)."""
        account = self.account if with_key else None
        return Client(
            account,
            password=self.password,
            rpc_urls=self.rpc_urls,
            deployments=self.deployments,
            chain_id=self.settings.chain_id,
            api_url=self.api_url,
            hub_url=self.settings.hub_url,
            data=self.data,
        )

    def open_funded(self) -> Client:
        """A client that can pay. Raises ConfigurationError without an account."""
        if self.account is None:
            raise ConfigurationError(
                "this needs an account: give --account ALIAS_OR_KEYSTORE or set ASSAY_ACCOUNT; "
                "`ape accounts generate ALIAS` makes one"
            )
        return self.open()

    def password(self) -> str:
        """From the file, else asked for."""
        if self.password_file is not None:
            return read_password(self.password_file)
        return str(click.prompt(f"Password of {self.account}", hide_input=True, err=True))


def connection_options(function: Callable[P, R]) -> Callable[..., R]:
    """Adds the options; the command gets one `connection` in their place."""
    return connection_options_for("client", "channels and receipts")(function)


def connection_options_for(folder: str, content: str) -> Callable[[Callable[P, R]], Callable[..., R]]:
    """`connection_options` of a command that keeps its state in another folder of ASSAY_DATA."""

    def decorate(function: Callable[P, R]) -> Callable[..., R]:
        @functools.wraps(function)
        def wrapper(**values: Any) -> R:
            return function(connection=_connection(values, folder), **values)  # type: ignore[call-arg,arg-type]

        decorated: Callable[..., R] = _data_option(folder, content)(wrapper)
        for option in reversed(_OPTIONS):
            decorated = option(decorated)
        return decorated

    return decorate


def _connection(values: dict[str, Any], folder: str) -> Connection:
    """Takes its options out of `values`."""
    settings = Settings()
    api_url = values.pop("api_url")
    return Connection(
        settings=settings,
        account=values.pop("account") or settings.account,
        password_file=values.pop("password_file") or settings.password_file,
        rpc_urls=list(values.pop("rpc_urls")) or settings.rpc_urls,
        deployments=values.pop("deployments") or settings.deployments,
        is_api_named=api_url is not None or "api_url" in settings.model_fields_set,
        api_url=_api_url(api_url, values.pop("no_api"), settings),
        data=values.pop("data") or settings.data / folder,
    )


def _api_url(given: str | None, refused: bool, settings: Settings) -> str | None:
    return None if refused else given or settings.api_url


def parse_amount(text: str, decimals: int) -> int:
    """Base units of a decimal amount such as `1.5`. Raises RequestError; never rounds."""
    try:
        with localcontext(prec=MAX_DIGITS) as exact:
            exact.traps[Inexact] = True
            value = Decimal(text.replace("_", ""))
            units = value.scaleb(decimals)
            is_amount = value.is_finite() and value >= 0 and units == units.to_integral_value()
        if not is_amount or units.adjusted() >= MAX_DIGITS:
            raise InvalidOperation
    except ArithmeticError:
        raise RequestError(
            f"{text!r} is not an amount: write a decimal number of tokens with at most {decimals} decimals, "
            "as in 1.5",
            code="amount_invalid",
        ) from None
    return int(units)


def format_amount(units: int, decimals: int) -> str:
    """`1500000` with 6 decimals → `1.5`; exact."""
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, part = divmod(units, 10**decimals)
    fraction = str(part).rjust(decimals, "0").rstrip("0") if decimals else ""
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


@dataclass(frozen=True, slots=True)
class Money:
    """The token's name and decimals."""

    symbol: str
    decimals: int

    @classmethod
    def of(cls, client: Client) -> Money:
        return cls(client.token.symbol(), client.token.decimals())

    def parse(self, text: str) -> int:
        return parse_amount(text, self.decimals)

    def show(self, units: int) -> str:
        return f"{format_amount(units, self.decimals)} {self.symbol}"
