"""How texts are shown and stored without secrets."""

from __future__ import annotations

import os
import re
from typing import Any

_HIDDEN = "***"
_SHORTEST_SECRET = 6
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY(_ID)?|PRIVATE_KEY)$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.\-]*://[^\s/:@\"'<>]*):[^\s/\"'<>]*@", re.IGNORECASE)
_QUERY_PASSWORD = re.compile(
    r"([?&](?:password|passwd|token|secret|api_?key|sig|signature)=)[^&\s\"'<>]+", re.IGNORECASE
)


def mask_secrets(text: str) -> str:
    """Replace passwords in addresses, and the values of secret environment variables, by ``***``."""
    return _mask(text, _environment_secrets())


def mask_nested(value: Any) -> Any:
    """:func:`mask_secrets` on every string inside lists and mappings; everything else stays as it is."""
    return _mask_nested(value, _environment_secrets())


def _mask(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return _QUERY_PASSWORD.sub(rf"\1{_HIDDEN}", _URL_PASSWORD.sub(rf"\1:{_HIDDEN}@", text))


def _mask_nested(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _mask(value, secrets)
    if isinstance(value, dict):
        return {key: _mask_nested(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask_nested(item, secrets) for item in value]
    return value


def _environment_secrets() -> list[str]:
    """Values of variables such as HF_TOKEN, longest first so that none hides a part of another."""
    values = {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    }
    return sorted(values, key=len, reverse=True)
