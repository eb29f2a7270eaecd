from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from vsae_search.search.curves import CURVE_FILE, CurveRecord, read_curve, write_curve


def test_what_is_written_is_read(tmp_path):
    columns = {"step": [1, 20], "tokens": [64, 1280], "total": [1.5, 0.25]}
    write_curve(tmp_path, columns)
    found = read_curve(tmp_path)
    assert found is not None
    assert {name: list(values) for name, values in found.columns.items()} == columns
    write_curve(tmp_path, {name: values[:1] for name, values in columns.items()})
    assert read_curve(tmp_path).columns["step"] == (1.0,), "the file is replaced, not added to"


def test_a_curve_without_points_is_not_written(tmp_path):
    write_curve(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    assert read_curve(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", json.dumps({"columns": {"step": [1, 2], "total": [1]}}), json.dumps({"columns": {"step": "x"}})],
)
def test_what_cannot_be_read_is_no_curve(tmp_path, content, caplog):
    (tmp_path / CURVE_FILE).write_text(content)
    assert read_curve(tmp_path) is None
    assert "curve_unreadable" in caplog.text


def test_a_forged_file_is_not_read_whole(tmp_path):
    (tmp_path / CURVE_FILE).write_text(" " * 1_000_001 + "{}")
    assert read_curve(tmp_path) is None


def test_columns_have_one_length():
    with pytest.raises(ValidationError):
        CurveRecord(columns={"step": (1.0,), "total": ()})
