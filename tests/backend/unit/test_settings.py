"""Settings from the environment: as people write them, and what they are told of mistakes."""

from __future__ import annotations

import pytest
from assay.cli import main
from assay.errors import ConfigurationError
from assay.settings import Settings

from tests.support.cli import RUNNER


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a:1", ["http://a:1"]),
        ("http://a:1, https://b/key", ["http://a:1", "https://b/key"]),
        ('["http://a:1", "https://b/x,y"]', ["http://a:1", "https://b/x,y"]),
    ],
)
def test_settings__rpc_urls__as_a_list_or_as_json(
    monkeypatch: pytest.MonkeyPatch, text: str, urls: list[str]
) -> None:
    monkeypatch.setenv("ASSAY_RPC_URLS", text)
    assert Settings().rpc_urls == urls


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RPC_URLS", '["https://secret@host'),
        ("RPC_URLS", "[7]"),
        ("CHAIN_ID", "secret"),
        ("LOG_JSON", "secret"),
    ],
)
def test_settings__that_cannot_be_read__name_the_variable_and_not_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ASSAY_{name}", value)
    with pytest.raises(ConfigurationError, match=f"ASSAY_{name}") as caught:
        Settings()
    assert "secret" not in str(caught.value)
    for command in (["node", "doctor"], ["network"]):  # which reads them before its command begins
        found = RUNNER.invoke(main, command)
        assert found.exit_code == ConfigurationError.exit_code
        assert found.stderr.startswith("error ASSAY_")
