from __future__ import annotations

import base64
import json
import logging
import re
from html.parser import HTMLParser
from importlib.resources import files

import plotly.graph_objects as go
import pytest
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from synthetic_sweeps import PAYLOADS, make_sweep, make_trial, ordinary, write_confirmation, write_runs, write_sweep

from vsae_search.report import build_report, write_report
from vsae_search.report.card import Card, Computes, Figure, discover
from vsae_search.report.packed import digest, unpack
from vsae_search.report.render import render_page, safe_json, section

VOID = {"meta", "img", "br", "link", "input", "hr"}
PLOTLY_TAGS = re.compile(r"</?(?:b|i|br)>")


class Page(HTMLParser):
    """Tags with their attributes, the text of scripts, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.open, self.text, self.packed = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "unbalanced tags"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.packed.append("data-packed" in dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)

    def specs(self):
        """Figure specifications embedded in the page."""
        pairs = zip(self.scripts, self.packed, strict=True)
        texts = [unpack(text) if packed else text for text, packed in pairs]
        return [json.loads(text) for text in texts if text.startswith('{"data":')]

    def shape(self):
        """Tags and names of attributes, which must not depend on stored strings."""
        return [(tag, tuple(attrs)) for tag, attrs in self.tags]


@pytest.fixture(scope="module")
def ordinary_report(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    directory, trials = ordinary(root / "sweep")
    write_runs(directory, trials)
    paths = write_report(directory, root / "out")
    return paths, Page(paths.html.read_text(encoding="utf-8"))


def hostile(directory, payloads):
    """A sweep in which every free string is a payload; uids stay folder names."""
    names = tuple(f"{payload}{index}" for index, payload in enumerate(payloads))
    trials = []
    for index, name in enumerate(names):
        base = dict(params={payloads[index]: payloads[-index], "d_sae": 64}, error=payloads[index])
        for number, state in enumerate(("completed", "completed", "failed", "diverged")):
            metrics = {"l0": 2.0 + number, "delta_ce": 0.2 - number / 20, payloads[index]: 1.0, "mmcs": 0.9}
            uid = f"t{index:02d}-{number:04d}"
            trials.append(make_trial(name, number, uid=uid, state=state, metrics=metrics, **base))
    record = make_sweep(
        name=payloads[0],
        architectures=names,
        description=payloads[1],
        loss_name=payloads[2],
        loss_unit=payloads[3],
        git_commit=payloads[4],
        versions={payloads[5]: payloads[6]},
        subject={"true_l0": 2.4, payloads[7]: payloads[8]},
        bank={payloads[9]: payloads[10]},
        resources={payloads[11]: payloads[0]},
    )
    directory = write_sweep(directory, record, trials, space_yaml="\n".join(f"# {text}" for text in payloads))
    write_runs(directory, trials)
    points = {trial.uid: [(2.0 + n / 9, 0.2)] * 6 for n, trial in enumerate(trials) if trial.state == "completed"}
    write_confirmation(directory, points, architectures=[trial.architecture for trial in trials if trial.uid in points])
    return directory


def test_twelve_payloads_change_no_tag_and_no_attribute(tmp_path, monkeypatch):
    monkeypatch.setattr("vsae_search.report.render.LARGE_CHARACTERS", 10**9)  # what is packed depends on its length
    harmless = tuple(f"word{index}" for index in range(len(PAYLOADS)))
    assert len(PAYLOADS) == 12
    pages = []
    for folder, payloads in (("good", harmless), ("bad", PAYLOADS)):
        text = render_page(build_report(hostile(tmp_path / folder, payloads)))
        pages.append(Page(text))
    good, bad = pages
    assert bad.shape() == good.shape()
    assert len(bad.scripts) == len(good.scripts)
    for tag, attrs in bad.tags:
        assert not [name for name in attrs if name.startswith("on")], tag
        for name in ("href", "src", "action", "formaction", "xlink:href"):
            assert "javascript:" not in (attrs.get(name) or "").lower()


def test_payloads_are_escaped_inside_figures(tmp_path):
    page = Page(render_page(build_report(hostile(tmp_path / "s", PAYLOADS))))
    specs = page.specs()
    assert len(specs) >= 5  # frontier, ownership, difference, hypervolume, optimism
    traces = [trace for spec in specs for trace in spec["data"]]
    strings = [text for trace in traces for text in (trace.get("name", ""), *(trace.get("hovertext") or ()))]
    strings += [
        trace[key].replace("<extra></extra>", "")
        for trace in traces
        for key in ("text", "hovertemplate")
        if isinstance(trace.get(key), str)
    ]
    strings += [
        spec["layout"]["yaxis"]["title"]["text"] for spec in specs if "title" in spec["layout"].get("yaxis", {})
    ]
    assert any("&lt;script&gt;" in text for text in strings)
    for text in strings:
        assert "<" not in PLOTLY_TAGS.sub("", text)


def test_page_loads_nothing_and_forbids_it(ordinary_report):
    paths, page = ordinary_report
    policies = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    own = files("vsae_search.report") / "templates" / "page.js"
    allowed = [digest(text) for text in (own.read_text(encoding="utf-8"), get_plotlyjs())]
    assert policies == [
        f"default-src 'none'; script-src '{allowed[0]}' '{allowed[1]}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    ]
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert attrs.get("src", "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        if "href" in attrs:
            assert attrs["href"].startswith(("#", "figures/", "http://127.0.0.1:5000/#/experiments/1/runs/"))
    assert "url(" not in re.search(r"<style>(.*?)</style>", paths.html.read_text(encoding="utf-8"), re.S).group(1)
    assert paths.html.stat().st_size < 3_000_000


def test_the_drawing_library_is_inside_and_what_the_policy_allows(ordinary_report):
    _, page = ordinary_report
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    texts = {attrs.get("id"): text for attrs, text in zip(scripts, page.scripts, strict=True)}
    assert unpack(texts["plotly"]) == get_plotlyjs()
    assert digest("") == "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="  # the digest of nothing, well known
    runs = [attrs for attrs in scripts if attrs.get("type") not in ("application/json", "text/plain")]
    assert runs == [{}], "one script runs by itself: the page's own"


def test_long_specifications_are_packed_and_say_the_same(tmp_path, monkeypatch):
    data = build_report(ordinary(tmp_path / "s")[0])
    plain = Page(render_page(data))
    monkeypatch.setattr("vsae_search.report.render.LARGE_CHARACTERS", 1000)
    packed = Page(render_page(data))
    assert packed.specs() == plain.specs()
    assert sum(packed.packed) > sum(plain.packed) == 1
    assert render_page(data) == render_page(data)


def test_every_figure_has_a_picture_and_a_sentence_for_readers_without_scripts(ordinary_report):
    paths, page = ordinary_report
    plots = [attrs for _, attrs in page.tags if attrs.get("class") == "plot"]
    stills = {attrs["alt"]: attrs["src"] for _, attrs in page.tags if attrs.get("class") == "still"}
    assert "figure-frontier" in {plot["id"] for plot in plots if plot["aria-label"] in stills}
    for plot in plots:
        name = plot["id"].removeprefix("figure-")
        picture = (paths.html.parent / "figures" / f"{name}.svg").read_bytes()
        assert f"figures/{name}.svg" in [attrs.get("href") for _, attrs in page.tags]
        if plot["aria-label"] in stills:
            assert base64.b64decode(stills[plot["aria-label"]].partition(",")[2]) == picture


def test_no_link_is_written_for_an_unsafe_tracking_address(tmp_path):
    directory, trials = ordinary(tmp_path / "s")
    write_runs(directory, trials)
    page = Page(render_page(build_report(directory, tracking_url="javascript:alert(1)//http://x")))
    assert all(attrs.get("href", "#").startswith("#") for _, attrs in page.tags)
    addresses = {address for spec in page.specs() for trace in spec["data"] for address in trace.get("customdata", ())}
    assert addresses == {None}


def test_figure_is_valid_plotly_and_drawn_in_steps(ordinary_report):
    _, page = ordinary_report
    figure = go.Figure(page.specs()[0])  # raises on an unknown attribute or value
    steps = [trace for trace in figure.data if trace.line.shape == "hv"]
    assert {trace.name for trace in steps} == {"relu", "topk", "april", "vsae_iso"}
    assert {trace.type for trace in figure.data} == {"scatter"}  # drawn as SVG; WebGL would need eval
    assert figure.layout.xaxis.type == "log"
    assert all(tick == 2 ** round(__import__("math").log2(tick)) for tick in figure.layout.xaxis.tickvals)


def test_figure_shows_exactly_the_numbers_of_the_report(ordinary_report):
    paths, page = ordinary_report
    data = json.loads(paths.json.read_text(encoding="utf-8"))
    marks = {t["name"]: t for t in page.specs()[0]["data"] if t["mode"] == "markers" and t["showlegend"]}
    rows = {row["uid"]: row for row in data["trials"]}
    for entry in data["architectures"]:
        trace = marks[entry["name"]]
        assert trace["x"] == [rows[uid]["l0"] for uid in entry["frontier"]]
        assert trace["y"] == [rows[uid]["delta_ce"] for uid in entry["frontier"]]
        assert trace["customdata"] == [rows[uid]["run_url"] for uid in entry["frontier"]]
        assert all(uid in text for uid, text in zip(entry["frontier"], trace["hovertext"], strict=True))
        assert all(
            "dead" in text and "MMCS" in text and "FVU" in text and "lr = " in text for text in trace["hovertext"]
        )


def test_accessibility(ordinary_report):
    _, page = ordinary_report
    assert page.tags[0] == ("html", {"lang": "en"})
    plots = [attrs for _, attrs in page.tags if attrs.get("class") == "plot"]
    assert {(plot["role"], plot["tabindex"]) for plot in plots} == {("img", "0")}
    assert all(len(plot["aria-label"]) > 40 for plot in plots)
    assert "topk from L0" in plots[0]["aria-label"]
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for _, attrs in page.tags:
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in identifiers
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") >= 5


@pytest.mark.parametrize("kind", ["empty", "one", "all_outside", "all_dominated", "no_reference", "zero_l0"])
def test_unusual_sweeps_render_with_explanations(tmp_path, kind):
    changes, trials = {}, []
    if kind == "one":
        trials = [make_trial("topk", 0)]
    elif kind == "all_outside":
        trials = [make_trial("topk", n, metrics={"l0": 64.0 + n, "delta_ce": 5.0}) for n in range(3)]
    elif kind == "all_dominated":
        trials = [make_trial("relu", n, metrics={"l0": 9.0 + n, "delta_ce": 0.3}) for n in range(4)]
        trials.append(make_trial("topk", 0, metrics={"l0": 2.0, "delta_ce": 0.0}))
    elif kind == "no_reference":
        changes, trials = {"reference": None, "subject": {}}, [make_trial("topk", n) for n in range(4)]
    elif kind == "zero_l0":
        trials = [make_trial("topk", 0, metrics={"l0": 0.0, "delta_ce": 0.4})]
    paths = write_report(write_sweep(tmp_path / "s", make_sweep(**changes), trials), tmp_path / "out")
    text = paths.html.read_text(encoding="utf-8")
    Page(text)
    assert "Drawing it failed" not in text
    assert "Its numbers failed" not in text
    expected = {
        "empty": "so there is no frontier to draw",
        "one": "too few to compare",
        "all_outside": "on or beyond the reference point",
        "all_dominated": "relu is not the best at any L0",
        "no_reference": "No usable reference point was recorded",
        "zero_l0": "beyond the ideal point",
    }
    assert expected[kind] in text


class Exploding:
    name, title, order = "exploding", "A <b>broken</b> card", 1

    def __init__(self, stage):
        self.stage = stage

    def compute(self, source, data):
        return self._at("compute", {})

    def unavailable(self, data):
        return self._at("unavailable", None)

    def render(self, data):
        return self._at("render", [Figure({"x": float("nan")}, "nan")] if self.stage == "json" else ["bare <string>"])

    def _at(self, stage, value):
        if stage == self.stage:
            raise ZeroDivisionError("<i>why</i>")
        return value


@pytest.mark.parametrize("stage", ["compute", "unavailable", "render", "json", "type"])
def test_a_broken_card_says_why_and_the_others_stay(tmp_path, caplog, stage):
    directory, _ = ordinary(tmp_path / "s")
    cards = [Exploding(stage), *discover()]
    with caplog.at_level(logging.ERROR):
        text = render_page(build_report(directory, cards=cards), cards=cards)
    Page(text)
    reason = {"json": "ValueError", "type": "TypeError"}.get(stage, "ZeroDivisionError: &lt;i&gt;why&lt;/i&gt;")
    assert reason in text
    assert "has the largest hypervolume" in text
    assert any(record.exc_info for record in caplog.records), "the traceback is logged"


def test_discovery_finds_every_card_in_order():
    cards = discover()
    names = [card.name for card in cards]
    expected = ["verdict", "health", "frontier", "ownership", "difference", "comparison", "matched", "hypervolume"]
    assert names[:9] == [*expected, "optimism"]
    assert names[-2:] == ["trials", "provenance"]
    assert all(isinstance(card, Computes) for card in cards[:9])
    assert not any(isinstance(card, Computes) for card in cards[-2:])


def test_a_new_card_is_one_new_file(tmp_path, monkeypatch, caplog):
    from vsae_search.report import cards as package

    (tmp_path / "zz_extra.py").write_text(
        "from vsae_search.report.markup import paragraph\n"
        "class Extra:\n"
        "    name, title, order = 'extra', 'Extra', 35\n"
        "    def unavailable(self, data): return None\n"
        "    def render(self, data): return [paragraph('hello ' + data.sweep.name)]\n"
        "CARD = Extra()\n"
    )
    (tmp_path / "zz_broken.py").write_text("raise RuntimeError('no such library')\n")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    with caplog.at_level(logging.ERROR):
        names = [card.name for card in discover()]
    assert [names[2], names[names.index("extra") + 1], names[-1]] == ["frontier", "comparison", "zz_broken"]
    text = render_page(build_report(write_sweep(tmp_path / "s", make_sweep(), [])))
    assert "hello toy" in text
    assert "no such library" in text


def test_section_returns_reason_or_parts(tmp_path):
    data = build_report(write_sweep(tmp_path / "s", make_sweep(), []))
    by_name: dict[str, Card] = {card.name: card for card in discover()}
    assert section(by_name["frontier"], data).parts == ()
    assert section(by_name["frontier"], data).failed is False
    assert all(isinstance(part, Markup) for part in section(by_name["health"], data).parts)


def test_safe_json_cannot_close_its_script():
    text = safe_json({"a": "</script><!--&\u2028\u2029"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028\u2029"}
    with pytest.raises(ValueError, match="JSON"):
        safe_json({"a": float("inf")})
