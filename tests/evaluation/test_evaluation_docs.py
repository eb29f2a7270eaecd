"""docs/metrics.md says about every key what the code says, and nothing about keys that do not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vsae_search.evaluation import metric_classes, metric_info

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented():
    """Return the rows of all tables: key -> cells."""
    found = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 6 and cells[0].startswith("`"):
            for key in re.findall(r"`(\w+)`", cells[0]):
                assert key not in found, f"{key} is documented twice"
                found[key] = cells
    return found


def test_every_key_is_documented_and_every_documented_key_exists():
    assert set(documented()) == set(metric_info())


@pytest.mark.parametrize("key", sorted(metric_info()))
def test_unit_and_direction_agree(key):
    _, definition, unit, better, _, _ = documented()[key]
    info = metric_info()[key]
    assert definition
    assert unit == info.unit
    if not key.startswith("null_"):
        assert better == info.direction


def test_every_metric_says_what_it_is():
    for cls in metric_classes():
        assert len(cls.__doc__) > 100, cls
        assert "Reference:" in cls.__doc__ or "Source:" in cls.__doc__, cls
        assert all(info.definition.endswith(".") and info.unit for info in cls.infos), cls
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", info.key) for info in cls.infos), cls


def test_the_example_of_the_docs_is_a_metric():
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL).group(1)
    names = {}
    exec(compile(code, str(DOCS), "exec"), names)  # the page's own example, from this repository
    assert names["Loudest"].infos[0].key == "loudest"
