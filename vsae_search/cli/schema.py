"""``schema``: the JSON Schema of the search-space file."""

from __future__ import annotations

from vsae_search.cli import _console


def schema() -> None:
    """Print the JSON Schema of the search-space file; editors use it for completion."""
    from vsae_search.saes import config_classes
    from vsae_search.space import json_schema

    _console.out_json(json_schema(config_classes()))
