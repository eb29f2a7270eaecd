"""Contexts of features in a text, against plain loops, and the page that shows them; the text is full of markup."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from analysis_sweeps import HOSTILE, language_model, material, topk, write_density, write_sweep

from vsae_search.analysis import Request, discover, find_trained, gather, write_analysis
from vsae_search.analysis.analyses.contexts import promoted_tokens, visible
from vsae_search.analysis.page import POLICY
from vsae_search.analysis.passages import AFTER, BEFORE, drawn, fired_tokens, strongest, window
from vsae_search.analysis.write import as_csv, render_analysis
from vsae_search.errors import EnvironmentNotReady
from vsae_search.subjects import Rows

ROWS = 1200


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("contexts")
    saes = {"topk-0000": topk(128, 96, 4), "topk-0001": topk(128, 96, 4, seed=1), "topk-0002": topk(128, 48, 4, seed=2)}
    directory = write_sweep(root, "lm", language_model(), saes, description="<b>bold</b>")
    write_density(directory, "topk-0001", np.r_[np.zeros(10), np.full(86, 0.1)])
    return directory


@pytest.fixture(scope="module")
def made(sweep, tmp_path_factory):
    others = tuple(find_trained(sweep, uid) for uid in ("topk-0001", "topk-0002"))
    request = Request(find_trained(sweep, "topk-0000"), others, num_rows=ROWS, seed=3)
    return gather(request, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    paths = write_analysis(made, tmp_path_factory.mktemp("out"))
    return paths, json.loads(paths.json.read_text()), paths.html.read_text()


@pytest.fixture(scope="module")
def rows(made):
    """The same rows, harvested again."""
    return made.subject.harvest(0, ROWS, "evaluation")


def dense(made):
    return made.reading.codes.by_row.toarray()


def test_rows_stand_where_they_were_read(made, rows):
    places = made.places
    assert len(places.sequence_N) == ROWS == made.num_rows
    tokens = torch.from_numpy(rows.tokens_ST[:3].astype(np.int64))
    x_STD = made.subject.load().activations(tokens, made.subject.hook)
    for row in range(0, 60, 7):
        sequence, position = places.sequence_N[row], places.position_N[row]
        np.testing.assert_allclose(rows.x_ND[row], x_STD[sequence, position].numpy(), atol=1e-4)


def test_the_strongest_contexts_are_those_of_a_sort(made):
    places, strength = made.places, dense(made)
    for latent in made.features[:8]:
        best = {}
        for row in np.argsort(-strength[:, latent], kind="stable"):
            if strength[row, latent] > 0:
                best.setdefault(places.sequence_N[row], row)
        assert strongest(made.reading.codes, places, latent, 5).tolist() == list(best.values())[:5]


def test_random_contexts_fire_and_are_others(made):
    places, codes, strength = made.places, made.reading.codes, dense(made)
    latent = int(np.argmax(codes.fired_F))
    top = strongest(codes, places, latent, 5)
    found = drawn(codes, places, latent, 6, avoid=top, seed=1)
    assert len(found) == 6
    assert (strength[found, latent] > 0).all()
    assert (np.diff(strength[found, latent]) <= 0).all()
    sequences = places.sequence_N[[*top, *found]]
    assert len(set(sequences)) == 11
    np.testing.assert_array_equal(found, drawn(codes, places, latent, 6, avoid=top, seed=1))
    assert found.tolist() != drawn(codes, places, latent, 6, avoid=top, seed=2).tolist()


def test_windows_hold_the_strength_of_every_token(made, rows):
    places, codes = made.places, made.reading.codes
    latent = int(np.argmax(codes.fired_F))
    table = np.zeros(rows.tokens_ST.shape)
    table[rows.kept_ST] = dense(made)[:, latent]
    for row in codes.of(latent)[0][::37]:
        found = window(codes, places, latent, int(row))
        sequence, position = places.sequence_N[row], places.position_N[row]
        start = max(0, position - BEFORE)
        np.testing.assert_array_equal(found["ids"], rows.tokens_ST[sequence, start : position + AFTER + 1])
        np.testing.assert_allclose(found["strengths"], table[sequence, start : position + AFTER + 1], atol=1e-4)
        assert found["focus"] == position - start
        assert found["strength"] == pytest.approx(table[sequence, position])


def test_tokens_on_which_it_fires_against_a_loop(made, rows):
    places, codes = made.places, made.reading.codes
    latent, mass = int(np.argmax(codes.fired_F)), {}
    tokens = rows.tokens_ST[rows.kept_ST]
    for token, strength in zip(tokens, dense(made)[:, latent], strict=True):
        mass[token] = mass.get(token, 0) + strength
    expected = sorted(mass.items(), key=lambda pair: -pair[1])[:3]
    total = sum(mass.values())
    found = fired_tokens(codes, places, latent, 3)
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [share for _, share in found] == pytest.approx([value / total for _, value in expected], rel=1e-4)


def test_promoted_tokens_are_those_of_the_unembedding(made):
    model = made.subject.load()
    direction = made.own.unit_FD[:2]
    W_U = dict(model.parameters())["unembed.W_U"].numpy()
    rise = direction @ W_U
    for row, found in enumerate(promoted_tokens(made.subject, direction)):
        expected = np.argsort(-rise[row])[: len(found)]
        assert [token for token, _ in found] == expected.tolist()
        assert [value for _, value in found] == pytest.approx(rise[row, expected].tolist(), abs=1e-4)


class Page(HTMLParser):
    """Tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            assert self.open

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def test_markup_in_the_text_stays_text(written):
    _, data, text = written
    shown = "".join(
        "".join(context["texts"])
        for feature in data["analyses"]["contexts"]["numbers"]["features"]
        for context in feature["top"]
    )
    assert "<script>" in shown
    assert "onmouseover='" in shown
    page = Page(text)
    allowed = {
        *[
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "a",
            "header",
            "p",
            "h1",
            "dl",
            "div",
            "dt",
            "dd",
            "nav",
            "main",
            "section",
            "h2",
            "h3",
            "figure",
        ]
    }
    allowed |= {
        *[
            "svg",
            "rect",
            "line",
            "text",
            "circle",
            "polyline",
            "figcaption",
            "span",
            "table",
            "caption",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        ]
    }
    allowed |= {*["details", "summary", "article", "ol", "ul", "li", "mark", "code", "footer"]}
    assert {tag for tag, _ in page.tags} <= allowed
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert {attrs["href"][0] for tag, attrs in page.tags if tag == "a"} == {"#"}
    assert any(payload in "".join(page.text) for payload in HOSTILE)


def test_hostile_names_stay_text(written):
    _, data, _ = written
    bad = json.loads(json.dumps(data).replace("topk-0000", HOSTILE[0]).replace("lm/topk-0001", "</title><script>"))
    bad["notes"], bad["params"] = [HOSTILE[1]], {HOSTILE[2].strip('"'): HOSTILE[4]}
    bad["analyses"]["density"]["unavailable"] = HOSTILE[1]
    bad["analyses"]["shrinkage"]["failed"] = HOSTILE[4]
    tags = [tag for tag, _ in Page(render_analysis(bad, discover())).tags]
    assert not {"script", "img", "iframe"} & set(tags)
    assert tags.count("svg") == tags.count("figure") > 5


def test_the_page_is_offline_strict_and_small(written):
    paths, _, text = written
    assert f'content="{POLICY}"' in text.replace("&#39;", "'")
    assert "script" not in POLICY
    assert paths.html.stat().st_size < 2_000_000
    assert "http://" not in text
    assert "https://" not in text


def test_nothing_failed_and_everything_is_there(written):
    _, data, text = written
    for name, entry in data["analyses"].items():
        assert entry["failed"] is None, name
        assert entry["unavailable"] is None, name
        assert f'id="{name}"' in text
    assert [other["latents"] for other in data["analyses"]["stability"]["numbers"]["others"]] == [[96, 86], [96, 48]]
    assert data["analyses"]["splitting"]["numbers"]["others"][0]["wide"]["name"] == "lm/topk-0000"
    assert data["features"] == [feature["latent"] for feature in data["analyses"]["contexts"]["numbers"]["features"]]
    assert data["analyses"]["reconstruction"]["numbers"]["recorded"] == {"delta_ce": 0.5, "ce_score_zero": 0.9}
    assert data["rows"] == ROWS


def test_the_page_shows_what_the_numbers_say(written):
    _, data, text = written
    assert render_analysis(data, discover()) == text
    feature = data["analyses"]["contexts"]["numbers"]["features"][0]
    assert f"Latent {feature['latent']}<" in text


def test_latents_csv_has_a_line_for_every_latent(written, made):
    paths = written[0]
    lines = paths.latents.read_text().splitlines()
    assert len(lines) == 97
    header, first = lines[0].split(","), lines[1].split(",")
    assert len(header) == len(first)
    assert float(first[header.index("density")]) == pytest.approx(made.reading.codes.fired_F[0] / ROWS)
    assert {"neighbour_1", "partner_phi", "cluster", "match_2", "parent_2", "rescale"} <= set(header)
    assert as_csv({"a": np.array([1, 2]), "b": np.array([0.5, np.nan])}) == "a,b\n1,0.5\n2,\n"


def test_the_same_request_gives_the_same_files(written, made, tmp_path):
    again = write_analysis(made, tmp_path)
    assert [path.read_bytes() for path in (again.html, again.json, again.latents)] == [
        path.read_bytes() for path in (written[0].html, written[0].json, written[0].latents)
    ]


def test_a_folder_that_cannot_be_made_is_an_error_for_people(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentNotReady, match="cannot be written"):
        write_analysis(made, tmp_path / "file" / "out", analyses=())


def test_line_breaks_and_nothing_become_visible():
    assert visible("a\n\tb\r") == "a\u21b5\u2192b"
    assert visible("") == "\u2205"


def test_a_latent_that_never_fires_has_no_context(made, rows):
    silent = material(topk(128, 96, 4), Rows(rows.x_ND[:1]))
    codes = silent.reading.codes
    quiet = int(np.flatnonzero(codes.fired_F == 0)[0])
    assert strongest(codes, made.places, quiet, 3).size == 0
    assert fired_tokens(codes, made.places, quiet, 3) == []
