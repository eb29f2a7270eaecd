from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator, ValidationError
from synthetic_sweeps import CURVES, PAYLOADS, confirmed, make_sweep, make_trial, ordinary, write_sweep

from vsae_search.errors import EnvironmentNotReady
from vsae_search.report import build_report, write_report
from vsae_search.report.links import RunAddress, run_url, safe_base
from vsae_search.report.picture import MARKERS, draw_frontier
from vsae_search.report.styles import SYMBOLS, styles
from vsae_search.report.tableformats import Table
from vsae_search.report.tables import csv_cell, frontier_csv, frontier_markdown, markdown_cell, trials_csv
from vsae_search.report.text import clean, counted, listed, mask, number, percent


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_write_report_writes_every_file_and_can_be_repeated(tmp_path):
    directory, _ = ordinary(tmp_path / "s")
    first = write_report(directory, tmp_path / "out")
    files = [first.html, first.json, first.schema, *first.figures, *first.tables]
    names = [path.relative_to(tmp_path / "out").as_posix() for path in files]
    figures = [name for name in names if name.startswith("figures/")]
    assert [name for name in names if name not in figures] == [
        "report.html",
        "report.json",
        "report.schema.json",
        *(f"tables/frontier.{kind}" for kind in ("csv", "parquet", "md", "tex")),
        *(f"tables/trials.{kind}" for kind in ("csv", "parquet")),
        *(f"tables/matched.{kind}" for kind in ("csv", "parquet", "md", "tex")),
    ]
    assert figures[:3] == [f"figures/frontier.{kind}" for kind in ("png", "svg", "pdf")]
    assert {"figures/ownership.svg", "figures/hypervolume.svg"} <= set(figures[3:])
    assert all(name.endswith(".svg") for name in figures[3:])
    before = {path: path.read_bytes() for path in files}
    write_report(directory, tmp_path / "out")
    assert {path: path.read_bytes() for path in files} == before
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == sorted(files)


def test_a_link_in_place_of_a_file_is_replaced_not_followed(tmp_path):
    directory, _ = ordinary(tmp_path / "s")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").symlink_to(victim)
    write_report(directory, tmp_path / "out")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "out" / "report.json").is_symlink()


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_folder_that_cannot_be_written_is_told_with_a_hint(tmp_path, below):
    directory, _ = ordinary(tmp_path / "s")
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(EnvironmentNotReady, match="the report cannot be written to") as caught:
        write_report(directory, tmp_path / "out" / below)
    assert "--reports" in caught.value.hint


def test_tables_hold_the_frontier_and_every_trial(tmp_path):
    directory, trials = ordinary(tmp_path / "s")
    data = build_report(directory)
    frontier, every = read_csv(frontier_csv(data)), read_csv(trials_csv(data))
    assert [row["uid"] for row in frontier] == [uid for entry in data.architectures for uid in entry.frontier]
    assert [row["uid"] for row in every] == sorted(trial.uid for trial in trials)
    for row in frontier:
        assert float(row["l0"]) == data.trial(row["uid"]).l0  # written without loss
        assert float(row["param.lr"]) == data.trial(row["uid"]).params["lr"]
    assert {row["state"] for row in every} == {"completed", "stopped", "diverged", "failed"}


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(1)", "\t=1", "\r=1", "  =1", "\n=1"])
def test_csv_formulas_are_defused(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [1, -2.5, 0.0, "relu", "a=b", ""])
def test_csv_leaves_numbers_and_plain_text_alone(value):
    assert csv_cell(value) == value


def test_csv_of_hostile_names_has_no_formula_in_any_cell(tmp_path):
    evil = ("=1+1", "@x", "-y", "+z", *PAYLOADS)
    trials = [make_trial(name, 0, uid=f"t{i:02d}", params={name: name}, error=name) for i, name in enumerate(evil)]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(architectures=evil), trials))
    for text in (frontier_csv(data), trials_csv(data)):
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert "'=1+1" in cells
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))]
    lines = frontier_markdown(data).splitlines()
    assert len(lines) == 2 + len(evil)
    assert not any("<" in line for line in lines)


def test_the_written_json_is_valid_against_the_written_schema(tmp_path):
    paths = write_report(confirmed(tmp_path / "s"), tmp_path / "out")
    schema, data = (json.loads(path.read_text(encoding="utf-8")) for path in (paths.schema, paths.json))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(data)
    assert len(data["confirmation"]["configurations"]) == 12
    with pytest.raises(ValidationError):
        Draft202012Validator(schema).validate({**data, "trials": [{"uid": 3}]})


def test_parquet_holds_what_the_csv_holds(tmp_path):
    paths = write_report(confirmed(tmp_path / "s"), tmp_path / "out")
    by_name = {path.name: path for path in paths.tables}
    for name in ("frontier", "trials", "matched", "comparison", "confirmed"):
        stored = pq.read_table(by_name[f"{name}.parquet"]).to_pylist()
        rows = read_csv(by_name[f"{name}.csv"].read_text(encoding="utf-8"))
        assert len(stored) == len(rows) > 0
        for values, row in zip(stored, rows, strict=True):
            assert list(values) == list(row)
            for key, value in values.items():
                if isinstance(value, float):
                    assert float(row[key]) == value
                else:
                    assert row[key].lstrip("'") in ("" if value is None else str(value), str(value).lower())


def test_latex_of_hostile_names_has_no_command_in_any_cell():
    text = Table(("a_b", "x"), ((r"\input{/etc/passwd}", 1.5), ("50% & $x^2$ ~ #1", None))).latex()
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{lr}"
    assert lines[3] == r"a\_b & x \\"
    assert lines[5] == r"\textbackslash{}input\{/etc/passwd\} & 1.5 \\"
    assert lines[6] == r"50\% \& \$x\textasciicircum{}2\$ \textasciitilde{} \#1 & -- \\"


def test_markdown_cell():
    assert markdown_cell("a|b\n`<i>`") == "a\\|b \\`&lt;i&gt;\\`"


def test_pictures_are_byte_stable_and_well_formed(tmp_path):
    data = build_report(ordinary(tmp_path / "s")[0])
    first, second = draw_frontier(data), draw_frontier(data)
    assert first == second
    assert first["png"].startswith(b"\x89PNG")
    assert b"Software" not in first["png"]
    assert ET.fromstring(first["svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"<dc:date>" not in first["svg"]
    assert first["pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in first["pdf"]


def test_picture_survives_hostile_names_and_empty_sweeps(tmp_path):
    trials = [make_trial(name, 0, uid=f"t{index:02d}") for index, name in enumerate(PAYLOADS)]
    record = make_sweep(name="a$\\frac$\u4e2d", architectures=PAYLOADS, loss_name=PAYLOADS[11])
    ET.fromstring(draw_frontier(build_report(write_sweep(tmp_path / "a", record, trials)))["svg"])
    assert draw_frontier(build_report(write_sweep(tmp_path / "b", make_sweep(), [])))["png"]


def test_styles_are_stable_distinct_and_complete():
    many = [f"architecture_{index}" for index in range(40)]
    assigned = styles([*many, *CURVES])
    assert len({(style.colour, style.symbol) for style in assigned.values()}) == 44
    assert styles(reversed([*many, *CURVES])) == assigned
    assert len({style.colour for style in styles(many[:8]).values()}) == 8
    assert len({style.symbol for style in styles(many[:8]).values()}) == 8
    assert all(styles(CURVES)[name] == assigned[name] == styles([name])[name] for name in CURVES)
    assert set(MARKERS) >= set(SYMBOLS)
    assert len(styles(f"n{index}" for index in range(100))) == 100


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://mlflow.example/base/", "https://mlflow.example/base"),
        ("https://user:secret@host:8080/", "https://host:8080"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://host/?q=1#x", "http://host"),
        ("javascript:alert(1)", None),
        ("JAVASCRIPT://x/%0aalert(1)", None),
        ("data:text/html,x", None),
        ("sqlite:////tmp/mlflow.db", None),
        ("postgresql://u:p@h/db", None),
        ("//host/x", None),
        ("http://", None),
        ("http://ho st", None),
        ("http://h\n.example", None),
        ('http://h"onclick=x', None),
        ("http://h/<script>", None),
        ("http://h:99999", None),
        ("", None),
        (None, None),
    ],
)
def test_safe_base(url, expected):
    assert safe_base(url) == expected


def test_run_url_needs_plain_identifiers():
    good = RunAddress("12", "ab-c_9")
    assert run_url("http://h", good) == "http://h/#/experiments/12/runs/ab-c_9"
    assert run_url(None, good) is None
    assert run_url("http://h", None) is None
    assert run_url("http://h", RunAddress("1", "../x")) is None
    assert run_url("http://h", RunAddress("1'", "x")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (21.34, "21.3"),
        (2.4, "2.4"),
        (64.0, "64"),
        (100.0, "100"),
        (1234.5, "1234" if f"{1234.5:.0f}" == "1234" else "1235"),
        (0.00012345, "1.23e-4"),
        (0.0, "0"),
        (-0.5, "-0.5"),
        (3, "3"),
        (True, "True"),
        ("x", "x"),
        (1e12, "1.00e12"),
        (None, "\u2013"),
        (float("nan"), "\u2013"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_words():
    assert [percent(share) for share in (0.333, 0.05, 0.0994, 1.0, 0.0, None)] == [
        "33 %",
        "5 %",
        "9.9 %",
        "100 %",
        "0 %",
        "\u2013",
    ]
    assert [listed(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert counted(1, "trial") == "1 trial"
    assert counted(2, "trial") == "2 trials"


def test_clean_masks_and_removes_what_json_lacks():
    dirty = {"a": [float("nan"), (1, 2.5)], "u": "x://me:pw@h", "b": True, "n": None, "c": "a\x00b\u2028"}
    assert clean(dirty) == {"a": [None, [1, 2.5]], "u": "x://***@h", "b": True, "n": None, "c": "ab"}
    assert mask("plain text\n\tkept") == "plain text\n\tkept"


def test_report_needs_neither_ray_nor_torch_nor_mlflow():
    code = (
        "import sys, vsae_search.report; "
        "sys.exit(str([m for m in ('ray', 'torch', 'mlflow', 'optuna', 'pandas') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
