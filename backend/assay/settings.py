"""Settings from the environment (`ASSAY_…`) and `.env`; read when asked for, never at import.

Components take plain arguments; only `cli` and `api` start-up read these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from assay.errors import ConfigurationError


class Settings(BaseSettings):
    """Shared by every command. URLs may carry credentials: never log them whole."""

    model_config = SettingsConfigDict(env_prefix="ASSAY_", env_file=".env", extra="ignore")

    rpc_urls: Annotated[list[str], NoDecode] = Field(
        default=["http://127.0.0.1:8545"],
        description="URLs with commas between, or a JSON array; tried in order",
    )
    chain_id: int | None = Field(default=None, description="refuse any other chain; default: the RPC's")
    deployments: Path = Field(default=Path("deployments"), description="folder written by scripts/deploy.py")
    hub_url: str = Field(default="http://127.0.0.1:8600", description="artifact hub for clients and nodes")
    api_url: str = Field(default="http://127.0.0.1:8700", description="REST API of the index")
    database_url: str = Field(default="sqlite:///var/index.sqlite3", description="index database")
    data: Path = Field(default=Path("var"), description="folder for state files")
    account: str | None = Field(default=None, description="Ape account alias or path of a keystore v3 file")
    password_file: Path | None = Field(default=None, description="file holding the keystore's password")
    log_json: bool = False

    def __init__(self, **values: Any) -> None:
        """Raises ConfigurationError that names the variables, and none of their values."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = [
                f"ASSAY_{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}"
                for one in error.errors(include_input=False)
            ]
            raise ConfigurationError(
                "; ".join(problems) + "; correct it in the environment or in .env"
            ) from None

    @field_validator("rpc_urls", mode="before")
    @classmethod
    def _urls(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.lstrip().startswith("["):
            return [url.strip() for url in value.split(",") if url.strip()]
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("not JSON") from None
