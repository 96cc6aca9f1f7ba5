"""Settings from the environment (`ASSAY_…`) and `.env`; read when asked for, never at import.

Components take plain arguments; only `cli` and `api` start-up read these.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Shared by every command. URLs may carry credentials: never log them whole."""

    model_config = SettingsConfigDict(env_prefix="ASSAY_", env_file=".env", extra="ignore")

    rpc_urls: list[str] = Field(default=["http://127.0.0.1:8545"], description="JSON array; tried in order")
    chain_id: int | None = Field(default=None, description="refuse any other chain; default: the RPC's")
    deployments: Path = Field(default=Path("deployments"), description="folder written by scripts/deploy.py")
    hub_url: str = Field(default="http://127.0.0.1:8600", description="artifact hub for clients and nodes")
    api_url: str = Field(default="http://127.0.0.1:8700", description="REST API of the index")
    database_url: str = Field(default="sqlite:///var/index.sqlite3", description="index database")
    data: Path = Field(default=Path("var"), description="folder for state files")
    account: str | None = Field(default=None, description="Ape account alias or path of a keystore v3 file")
    password_file: Path | None = Field(default=None, description="file holding the keystore's password")
    log_json: bool = False
