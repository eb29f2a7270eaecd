"""The guide to the architectures names every one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vsae_search import saes

GUIDE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()


@pytest.mark.parametrize("name", saes.names())
def test_every_architecture_has_a_row(name):
    assert f"| `{name}` |" in GUIDE
