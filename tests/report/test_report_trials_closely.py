"""The cards that look at trials closely: parallel coordinates, training curves, densities."""

from __future__ import annotations

import html
import math

import numpy as np
import pytest
from safetensors.numpy import save_file
from synthetic_sweeps import CURVES, PAYLOADS, make_sweep, make_trial, write_sweep
from test_report_importance import planted
from test_report_render import PLOTLY_TAGS, Page

from vsae_search.evaluation.metrics.sparsity import HISTOGRAM_EDGES
from vsae_search.report.build import build_report
from vsae_search.report.card import discover
from vsae_search.report.cards.curves import _ticks as log_ticks
from vsae_search.report.examples import HIGH, LOW, MIDDLE, examples
from vsae_search.report.render import render_page, section
from vsae_search.report.still import draw_still
from vsae_search.search.curves import CURVE_FILE, write_curve
from vsae_search.search.records import trial_directory

NAMES = ("importance", "parallel", "curves", "density")


@pytest.fixture(scope="module")
def cards():
    return [card for card in discover() if card.name in NAMES]


def write_arrays(folder, density_F):
    fired = density_F[density_F > 0]
    histogram, _ = np.histogram(np.log10(fired), bins=HISTOGRAM_EDGES)
    arrays = {"density": density_F, "density_histogram": histogram, "density_histogram_edges": HISTOGRAM_EDGES}
    save_file(arrays, folder / "arrays.safetensors")


def write_extras(directory, trials, *, points=120, kl=("vsae_iso",)):
    """A curve and densities for every completed trial, with numbers from closed formulas."""
    steps = np.unique(np.geomspace(1, 1000, points).round()).tolist()
    for trial in trials:
        folder = trial_directory(directory, trial.uid)
        columns = {
            "step": steps,
            "tokens": [64 * step for step in steps],
            "total": [9.0 / math.sqrt(step) for step in steps],
            "reconstruction": [8.0 / math.sqrt(step) for step in steps],
            "grad_norm": [1.0 for _ in steps],
            "l0": [2.0 + 30 / step for step in steps],
            "dead_fraction": [min(0.25, step / 4000) for step in steps],
        }
        if trial.architecture in kl:
            columns["kl"] = [step / 1000 for step in steps]
        write_curve(folder, columns)
        write_arrays(folder, np.repeat([0.0, 0.001, 0.02, 0.5], [16, 20, 24, 4]))


@pytest.fixture(scope="module")
def full(tmp_path_factory, cards):
    """Four architectures of 24 trials with curves and densities: numbers and page."""
    directory = tmp_path_factory.mktemp("closely") / "s"
    trials = [make_trial(name, number) for name in CURVES for number in range(24)]
    record = make_sweep(bank={"evaluation_rows": 10_000})
    write_sweep(directory, record, trials)
    write_extras(directory, trials)
    data = build_report(directory, cards=cards)
    return data, Page(render_page(data, cards=cards))


def test_order_is_that_of_the_reference():
    names = [card.name for card in discover()]
    assert names[names.index("importance") :][:4] == list(NAMES)
    assert names.index("hypervolume") < names.index("importance")
    assert names.index("density") < names.index("trials")


def test_every_card_has_a_figure_and_its_numbers_in_words(full, cards):
    data, page = full
    assert data.card_errors == {}
    for card in cards:
        figure, *rest = section(card, data).parts
        assert len(figure.alt) > 100
        assert any("<table" in part for part in rest), card.name
    assert len(page.specs()) == 4


def test_examples_are_the_ends_and_the_middle_of_a_frontier(full):
    data, _ = full
    for name in CURVES:
        own, frontier = [one for one in examples(data) if one.entry.name == name], data.frontier(name)
        assert [one.place for one in own] == [LOW, MIDDLE, HIGH][-len(own) :]
        assert own[0].trial.uid == frontier[0].uid
        assert own[-1].trial.uid == frontier[-1].uid
    many = data.model_copy(
        update={
            "architectures": tuple(
                data.architectures[0].model_copy(update={"name": f"{name}{n}"}) for name in CURVES for n in range(2)
            )
        }
    )
    assert [one.place for one in examples(many)] == [MIDDLE] * 8


def test_curves_are_thinned_and_keep_their_ends(full):
    data, page = full
    rows = data.cards["curves"]["trials"]
    assert {row["uid"] for row in rows} == {one.trial.uid for one in examples(data)}
    for row in rows:
        assert 10 < len(row["tokens"]) <= 50
        assert row["tokens"][0] == 64
        assert row["tokens"][-1] == 64_000
        assert row["loss"][0] == 9.0
        assert row["loss"][-1] == pytest.approx(9 / math.sqrt(1000), rel=1e-3)
        assert row["dead"][-1] == 0.25
        assert (row["kl"] is not None) == (row["architecture"] == "vsae_iso")
        for at, loss, l0 in zip(row["tokens"], row["loss"], row["l0"], strict=True):
            assert loss == pytest.approx(9 / math.sqrt(at / 64), rel=1e-3)
            assert l0 == pytest.approx(2 + 30 / (at / 64), rel=1e-3)
    spec = next(spec for spec in page.specs() if "yaxis4" in spec["layout"])
    assert [spec["layout"][key]["title"]["text"] for key in ("yaxis", "yaxis2", "yaxis3", "yaxis4")] == [
        *("loss", "L0", "dead, %", "KL"),
    ]
    assert {trace["yaxis"] for trace in spec["data"] if "vsae_iso" in trace["name"]} == {"y", "y2", "y3", "y4"}
    assert max(max(trace["y"]) for trace in spec["data"] if trace["yaxis"] == "y3") == 25.0


def test_densities_by_hand(full):
    data, page = full
    found = data.cards["density"]
    row = found["trials"][0]
    assert row["num_latents"] == 64
    assert row["dead_fraction"] == 16 / 64
    assert row["dense_fraction"] == 4 / 64
    assert row["median_density"] == 0.02  # of 20 at 0.001, 24 at 0.02 and 4 at 0.5
    bins = {round(edge, 2): count for edge, count in zip(found["edges"], row["histogram"], strict=False) if count}
    assert bins == {-3.0: 20, -1.75: 24, -0.5: 4}  # log10 of 0.02 is -1.70, of 0.5 is -0.30
    (spec,) = [spec for spec in page.specs() if spec["data"][0].get("colorbar")]
    trace = spec["data"][0]
    assert trace["x"][:3] == ["never", "", "10^-3 to 10^-2.75"]
    assert trace["z"][0][:3] == [25.0, None, 31.25]
    line = spec["layout"]["shapes"][0]["x0"]
    assert trace["x"][math.ceil(line)] == "10^-1 to 10^-0.75", "the line is on the left edge of the first dense bin"
    assert line == math.floor(line) + 0.5
    assert "With 10000 evaluation rows nothing below 1.00e-4 can be seen" in "".join(page.text)


def test_lines_go_through_the_places_of_their_values(tmp_path, cards):
    data = build_report(planted(tmp_path / "s"), cards=cards)
    (found,) = data.cards["parallel"]["architectures"]
    assert [axis["name"] for axis in found["axes"]] == ["lr", "k", "junk", "L0", "delta-CE"]
    assert found["num_trials"] == 60
    assert len(found["lines"]) == 40
    lines = {line["uid"]: line for line in found["lines"]}
    assert {uid for uid, line in lines.items() if line["rank"] == 0} == set(data.architecture("topk").frontier)
    row = data.frontier("topk")[0]
    lr, k, junk, l0, _ = lines[row.uid]["places"]
    assert lr == pytest.approx((math.log10(row.params["lr"]) + 4) / 2, abs=1e-3)
    assert k == [1, 2, 4, 8, 16].index(row.params["k"]) / 4
    assert junk == ["a", "b"].index(row.params["junk"])
    assert l0 == 0.0, "the frontier begins at the lowest L0"
    assert any(line["rank"] == 2 for line in found["lines"]), "lines far behind are drawn too"
    spans = {span["parameter"]: span for span in found["frontier"]}
    assert spans["lr"]["searched"] == "1.00e-4 to 0.01"
    assert spans["k"]["frontier"] == "1, 2, 4, 8 and 16"


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "columns", "shape"])
def test_what_cannot_be_read_is_named_and_the_others_stay(tmp_path, cards, damage):
    trials = [make_trial("topk", number) for number in range(6)]
    directory = write_sweep(tmp_path / "s", make_sweep(architectures=("topk",)), trials)
    write_extras(directory, trials)
    data = build_report(directory, cards=[])
    broken = data.frontier("topk")[0].uid
    folder = trial_directory(directory, broken)
    if damage in ("columns", "shape"):
        write_curve(folder, {"step": [1.0], "tokens": [64.0]})
        save_file({"density": np.zeros((2, 2)), "density_histogram": np.zeros(3)}, folder / "arrays.safetensors")
    for name in (CURVE_FILE, "arrays.safetensors"):
        if damage == "absent":
            (folder / name).unlink()
        elif damage in ("empty", "text"):
            (folder / name).write_bytes(b"" if damage == "empty" else b"<script>" * 40)
    data = build_report(directory, cards=cards)
    assert data.card_errors == {}
    for name in ("curves", "density"):
        assert data.cards[name]["without"] == [broken]
        assert len(data.cards[name]["trials"]) == len(examples(data)) - 1
    assert broken in render_page(data, cards=cards)


def test_without_anything_to_draw_every_card_says_why(tmp_path, cards):
    empty = build_report(write_sweep(tmp_path / "empty", make_sweep(), []), cards=cards)
    assert {card.name: card.unavailable(empty) for card in cards} == {
        "importance": "Importance needs 20 completed trials of an architecture that searches something.",
        "parallel": "No architecture has 3 completed trials and a hyper-parameter that differs between them.",
        "curves": "No architecture has a frontier trial.",
        "density": "No architecture has a frontier trial.",
    }
    trials = [make_trial("topk", number) for number in range(4)]
    bare = build_report(write_sweep(tmp_path / "bare", make_sweep(architectures=("topk",)), trials), cards=cards)
    reasons = {card.name: card.unavailable(bare) for card in cards}
    assert "curve.json" in reasons["curves"]
    assert "arrays.safetensors" in reasons["density"]
    assert reasons["parallel"] is None
    Page(render_page(bare, cards=cards))


def hostile(directory, payloads):
    trials = []
    for index, payload in enumerate(payloads):
        for number in range(20):
            rate = float(number + 1)
            params = {payload: rate, f"{payload} text": payloads[number % len(payloads)], "k": number}
            metrics = {"l0": 1.0 + number, "delta_ce": 0.4 / (1 + number)}
            uid = f"t{index:02d}-{number:04d}"
            trials.append(make_trial(payload, number, uid=uid, params=params, metrics=metrics))
    write_sweep(directory, make_sweep(architectures=payloads), trials)
    write_extras(directory, trials, points=10, kl=payloads[:1])
    return directory


def strings(value):
    """Every string inside a figure."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def test_names_of_hyper_parameters_and_architectures_are_escaped(tmp_path, cards):
    payloads = PAYLOADS[:4]
    pages = {}
    for folder, names in (("good", tuple(f"word{n}" for n in range(4))), ("bad", payloads)):
        data = build_report(hostile(tmp_path / folder, names), cards=cards)
        assert data.card_errors == {}
        pages[folder] = Page(render_page(data, cards=cards))
    assert pages["bad"].shape() == pages["good"].shape()
    found = [text for spec in pages["bad"].specs() for text in strings(spec)]
    assert any(html.escape(payloads[0])[:12] in text for text in found)
    for text in found:
        assert "<" not in PLOTLY_TAGS.sub("", text).replace("<extra></extra>", "")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((1.0, 90.0), ["1", "2", "5", "10", "20", "50"]),
        ((0.3, 4e6), ["1", "100", "10\u2074", "10\u2076"]),
        ((3e4, 9e4), ["5\u00b710\u2074"]),
        ((3.1, 3.2), None),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_few_and_plain(values, texts):
    ticks = log_ticks(values)
    assert ticks.get("ticktext") == texts
    assert all(min(values) <= value <= max(values) for value in ticks.get("tickvals", ()))


def test_every_figure_has_a_picture(full, cards):
    data, _ = full
    for card in cards:
        figure = section(card, data).parts[0]
        assert draw_still(figure, ("svg",))["svg"].startswith(b"<?xml"), card.name
