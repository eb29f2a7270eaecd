"""Autoencoders from elsewhere are drawn and listed, and change no number of the sweep."""

from __future__ import annotations

import pytest
from synthetic_sweeps import ordinary

from vsae_search.report import build_report
from vsae_search.report.data import ReportData
from vsae_search.report.references import REFERENCES_FOLDER, SYMBOL, ImportedSae, drawable
from vsae_search.report.render import render_page
from vsae_search.report.view import frontier_view
from vsae_search.search.records import write_record

HOSTILE = "<img src=x onerror=alert(1)>"


def reference(label, l0, delta_ce, **changes):
    fields = {
        "label": label,
        "format": "saelens",
        "class_name": "jumprelu",
        "source": "/somewhere",
        "model": "gpt2",
        "dataset": "openwebtext",
        "d_sae": 4096,
        "digest": label,
        "evaluation_digest": "rows",
        "metrics": {"l0": l0, "delta_ce": delta_ce, "fvu": 0.125},
    }
    return ImportedSae(**{**fields, **changes})


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The report of a sweep without references and with three."""
    directory, _ = ordinary(tmp_path_factory.mktemp("references") / "toy")
    before = build_report(directory)
    (directory / REFERENCES_FOLDER).mkdir()
    far = reference("far", 1000.0, 0.01)
    for one in (reference("published", 4.0, 0.05), far, reference("odd", 3.0, float("nan"), model=HOSTILE)):
        write_record(directory / REFERENCES_FOLDER / f"{one.label}.json", one)
    return before, build_report(directory)


def test_they_change_no_number_of_the_sweep(reports):
    before, after = reports
    assert before.references == ()
    assert [row.label for row in after.references] == ["far", "odd", "published"]
    assert after.model_copy(update={"references": ()}) == before
    assert ReportData.model_validate_json(after.model_dump_json()) == after


def test_one_without_finite_numbers_is_listed_and_not_drawn(reports):
    after = reports[1]
    assert [(row.label, l0, delta_ce) for row, l0, delta_ce in drawable(after)] == [
        ("far", 1000.0, 0.01),
        ("published", 4.0, 0.05),
    ]
    assert after.references[1].metrics["delta_ce"] is None


def test_the_axes_reach_them(reports):
    before, after = (frontier_view(data) for data in reports)
    assert before.l0_range[1] < 1000 < after.l0_range[1]
    assert after.linear_range[0] < 0.01


def test_the_page_marks_and_lists_them_and_says_that_they_do_not_compete(reports):
    before, after = (render_page(data) for data in reports)
    assert SYMBOL in after
    assert SYMBOL not in before
    assert "jumprelu (saelens)" in after
    assert "gpt2, openwebtext" in after
    assert "enter no frontier" in after
    assert HOSTILE not in after
    assert "Drawing it failed" not in after
