"""``schema``: the JSON Schema of the search-space file."""

from __future__ import annotations

from typing import Annotated

import typer

from vsae_search.cli import _console


def schema(
    experiment: Annotated[bool, typer.Option("--experiment", help="That of files that run a toy experiment.")] = False,
) -> None:
    """Print the JSON Schema of the search-space file; editors use it for completion."""
    from vsae_search.saes import config_classes
    from vsae_search.space import experiment_schema, json_schema

    _console.out_json(experiment_schema() if experiment else json_schema(config_classes()))
