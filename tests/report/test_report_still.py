from __future__ import annotations

import logging
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from synthetic_sweeps import confirmed

from vsae_search.report import build_report, write_report
from vsae_search.report.card import Figure
from vsae_search.report.categories import numbered
from vsae_search.report.pictures import PAGE_BYTES, page_pictures, picture_files
from vsae_search.report.render import Section, figure_names, sections_of
from vsae_search.report.still import _draw, draw_still
from vsae_search.report.stilltraces import colour, plain


def drawn(traces, **layout):
    """The Matplotlib figure of a specification."""
    return _draw(*numbered(traces, layout), 500)


def test_every_figure_of_a_confirmed_sweep_has_a_byte_stable_picture(tmp_path, caplog):
    directory = confirmed(tmp_path / "s")
    data = build_report(directory)
    sections = sections_of(data)
    names = [name for entry in sections for name in figure_names(entry)]
    with caplog.at_level(logging.WARNING):
        files = picture_files(data, sections)
    assert len(names) >= 5
    assert set(files) == {*(f"{name}.svg" for name in names), "frontier.png", "frontier.pdf"}
    assert not [record for record in caplog.records if "picture_failed" in record.getMessage()]
    assert picture_files(data, sections) == files
    for name in names:
        assert ET.fromstring(files[f"{name}.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    paths = write_report(directory, tmp_path / "out", every_format=True)
    assert {path.name for path in paths.figures} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png", "pdf")
    }


def test_lines_are_drawn_in_steps_with_the_numbers_of_the_specification():
    trace = {"x": [1, 2, 4], "y": [0.3, None, 0.1], "mode": "lines", "line": {"shape": "hv", "color": "#123456"}}
    (axes, _) = drawn([trace], xaxis={"type": "log", "range": [0, 1]}, yaxis={"range": [1, 0]}).axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 0.3], [2, np.nan], [4, 0.1]])
    assert line.get_drawstyle() == "steps-post"
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (1, 10)
    assert axes.get_ylim() == (1, 0)


def test_marks_keep_their_places_shapes_and_colours():
    marker = {"symbol": ["circle", "square-open", "circle"], "color": ["red", "rgba(0,0,255,0.5)", "red"], "size": 8}
    (axes, _) = drawn([{"x": [1, 2, 3], "y": [4, 5, 6], "mode": "markers", "marker": marker, "name": "a"}] * 2).axes
    circles, squares = axes.collections[:2]
    assert circles.get_offsets().tolist() == [[1, 4], [3, 6]]
    assert squares.get_offsets().tolist() == [[2, 5]]
    assert circles.get_facecolors().tolist() == [[1, 0, 0, 1]]
    assert squares.get_facecolors().size == 0, "open marks are hollow"
    assert squares.get_edgecolors().tolist() == [[0, 0, 1, 0.5]]


def test_stacked_bars_begin_where_the_last_ended():
    bars = [{"type": "bar", "x": ["a", "b"], "y": [1, 2]}, {"type": "bar", "x": ["a", "b"], "y": [3, 5]}]
    (axes, _) = drawn(bars, barmode="stack").axes
    assert [(bar.get_y(), bar.get_height()) for bar in axes.patches] == [(0, 1), (0, 2), (1, 3), (2, 5)]


def test_a_heatmap_keeps_its_cells_scale_and_direction():
    trace = {"type": "heatmap", "z": [[0, 1], [2, None]], "zmid": 0.0, "colorscale": [[0, "#000000"], [1, "#ffffff"]]}
    axes = drawn([trace], yaxis={"autorange": "reversed"}).axes[0]
    (mesh,) = axes.collections
    values = np.ma.filled(mesh.get_array().astype(float), math.nan)
    np.testing.assert_array_equal(values.reshape(2, 2), [[0, 1], [2, math.nan]])
    assert mesh.get_clim() == (-2, 2)
    assert axes.get_ylim() == (1.5, -0.5)


def test_words_become_places_in_the_order_in_which_they_come():
    heat = {"type": "heatmap", "x": ["never", "", "a"], "y": ["r", "s"], "z": [[1, None, 2], [3, None, 4]]}
    words = {"mode": "text", "x": ["a", "never"], "y": ["s", "r"], "text": ["4", "1"]}
    axes = drawn([heat, words], xaxis={"tickvals": [0, 2.5], "ticktext": ["n", "10<sup>-3</sup>"]}).axes[0]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("4", (2, 1)), ("1", (0, 0))]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["n", "10⁻³"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["r", "s"]
    traces, layout = numbered([{"x": [1, 2], "xaxis": "x2"}], {"xaxis2": {"type": "log"}})
    assert (traces, layout) == ([{"x": [1, 2], "xaxis": "x2"}], {"xaxis2": {"type": "log"}}), "numbers stay"


def test_several_planes_lie_where_their_axes_say():
    traces = [{"y": [1, 2]}, {"y": [3, 4], "xaxis": "x2", "yaxis": "y2"}]
    left, right, _ = drawn(traces, xaxis={"domain": [0, 0.4]}, xaxis2={"domain": [0.6, 1]}).axes
    assert left.get_position().x1 < right.get_position().x0
    assert right.lines[0].get_ydata().tolist() == [3, 4]
    top, bottom, _ = drawn(traces, grid={"rows": 2, "columns": 1, "pattern": "independent"}).axes
    assert top.get_position().y0 > bottom.get_position().y1


def test_hidden_traces_are_left_out_and_the_legend_names_the_others_once():
    traces = [
        {"y": [1, 2], "name": "a &amp; b"},
        {"y": [1], "name": "a &amp; b"},
        {"y": [1], "name": "c", "visible": False},
    ]
    figure = drawn(traces)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a & b"]
    assert not drawn(traces, showlegend=False).legends


def test_text_and_colours_are_read_as_plotly_reads_them():
    assert plain("<b>a</b><br>&lt;i&gt; $x$") == "a\n<i> $x$"
    assert colour("rgba(255,0,51,0.5)") == pytest.approx((1, 0, 0.2, 0.5))
    assert colour("rgb(0, 255, 0)") == (0, 1, 0, 1)
    assert colour("#0000ff") == (0, 0, 1, 1)


def test_a_figure_that_cannot_be_drawn_costs_no_other(tmp_path, caplog):
    data = build_report(confirmed(tmp_path / "s"))
    odd = Figure({"data": [{"type": "scatter3d"}]}, "odd")
    good = Figure({"data": [{"y": [1, 2]}]}, "good")
    with pytest.raises(NotImplementedError, match="scatter3d"):
        draw_still(odd, ("svg",))
    with caplog.at_level(logging.ERROR):
        files = picture_files(data, [Section("new", "New", (odd, good), None)])
    assert set(files) == {"frontier.png", "frontier.svg", "frontier.pdf", "new-2.svg"}
    assert any(record.exc_info for record in caplog.records)


def test_the_page_carries_pictures_up_to_a_limit():
    half = b"x" * (PAGE_BYTES // 2)
    files = {"a.svg": half, "a.png": half, "b.svg": half, "c.svg": b"x"}
    assert page_pictures(files) == {"a": half, "b": half, "c": None}
