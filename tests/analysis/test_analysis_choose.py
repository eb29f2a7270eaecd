"""Which autoencoder is looked at, and how many rows: defaults and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_sweeps import DIRECTIONS, language_model, topk, write_density, write_sweep

from vsae_search.analysis import Request, default_uid, find_trained, gather, write_analysis
from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.search import TrialRecord


def trial(uid, l0, delta_ce, state="completed"):
    metrics = {"l0": l0, "delta_ce": delta_ce}
    return TrialRecord(uid=uid, architecture="topk", number=0, params={}, seed=0, state=state, metrics=metrics)


def test_the_default_is_the_knee_of_the_frontier():
    # on the frontier: (1, 1), (4, 0.2), (16, 0); scaled: (0, 1), (0.5, 0.2), (1, 0)
    trials = [
        trial("a", 1, 1.0),
        trial("b", 4, 0.2),
        trial("c", 16, 0.0),
        trial("d", 4, 0.3),
        trial("e", 2, 0.1, "failed"),
    ]
    assert default_uid(trials) == "b"
    assert default_uid(trials[:1]) == "a"
    with pytest.raises(UserInputError, match="No completed trial"):
        default_uid([trial("e", 2, float("nan"))])


def test_a_trial_is_found_with_its_weights(tmp_path):
    directory = write_sweep(tmp_path, "s", DIRECTIONS, {"topk-0000": topk(seed=5), "topk-0001": None})
    found = find_trained(directory, "topk-0000")
    assert found.name == "s/topk-0000"
    np.testing.assert_array_equal(found.load().W_dec.detach(), topk(seed=5).W_dec.detach())
    assert found.density() is None
    assert find_trained(directory).trial.uid == "topk-0000"


def test_mistakes_name_what_there_is(tmp_path):
    directory = write_sweep(tmp_path, "s", DIRECTIONS, {"topk-0000": topk(), "topk-0001": None})
    with pytest.raises(UserInputError, match="no trial 'topk-0003'") as raised:
        find_trained(directory, "topk-0003")
    assert raised.value.hint == "Did you mean 'topk-0000'? Trained autoencoders of s: topk-0000."
    with pytest.raises(UserInputError, match="left no weights: it is diverged"):
        find_trained(directory, "topk-0001")
    with pytest.raises(UserInputError, match=r"no trial '\.\./topk-0000'"):
        find_trained(directory, "../topk-0000")
    empty = write_sweep(tmp_path, "e", DIRECTIONS, {"topk-0000": None})
    with pytest.raises(UserInputError, match="no trained autoencoder yet"):
        find_trained(empty)


def test_a_damaged_file_of_arrays_is_named(tmp_path):
    directory = write_sweep(tmp_path, "s", DIRECTIONS, {"topk-0000": topk()})
    (directory / "trials" / "topk-0000" / "arrays.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CorruptFile, match=r"arrays\.safetensors cannot be read"):
        find_trained(directory, "topk-0000").density()


def test_a_toy_is_analysed_without_contexts(tmp_path):
    saes = {"topk-0000": topk(), "topk-0001": topk(seed=1)}
    directory = write_sweep(tmp_path, "s", DIRECTIONS, saes, bank={"scale": 1.0, "subject": "another"})
    write_density(directory, "topk-0000", np.r_[np.zeros(4), np.ones(12)])
    request = Request(find_trained(directory, "topk-0000"), (find_trained(directory, "topk-0001"),), num_rows=3000)
    made = gather(request, tmp_path / "cache")
    assert made.num_rows == 3000
    assert made.own.alive_A.tolist() == list(range(4, 16))
    assert ["not exactly that of the sweep" in note for note in made.notes] == [True]
    paths = write_analysis(made, tmp_path / "out")
    page = paths.html.read_text()
    assert "The subject reads no text: there are no contexts to show." in page
    assert "No autoencoder of another width was given" in page
    assert 'class="failed"' not in page


def test_an_autoencoder_of_another_activation_is_refused(tmp_path):
    directory = write_sweep(tmp_path, "s", DIRECTIONS, {"topk-0000": topk(), "topk-0001": topk(d_in=6)})
    request = Request(find_trained(directory, "topk-0000"), (find_trained(directory, "topk-0001"),))
    with pytest.raises(UserInputError, match="of width 6, s/topk-0000 of width 8"):
        gather(request, tmp_path)


def test_a_latent_that_does_not_exist_is_refused(tmp_path):
    directory = write_sweep(tmp_path, "s", DIRECTIONS, {"topk-0000": topk()})
    with pytest.raises(UserInputError, match="no latent 16: the autoencoder has 16"):
        gather(Request(find_trained(directory), features=(3, 16)), tmp_path)


def test_of_a_short_text_all_is_read_and_too_much_is_refused(tmp_path):
    directory = write_sweep(tmp_path, "s", language_model(), {"topk-0000": topk(128, 32, 4)})
    trained = find_trained(directory)
    made = gather(Request(trained), tmp_path / "cache")
    split = made.subject.text.available("evaluation", 10**6)
    assert 0.8 * split * made.subject.rows_per_sequence < made.num_rows < 100_000
    with pytest.raises(UserInputError, match="too short"):
        gather(Request(trained, num_rows=made.num_rows * 2), tmp_path / "cache")


def test_a_dead_autoencoder_is_no_error(tmp_path):
    sae = topk()
    sae.W_enc.data.zero_()
    directory = write_sweep(tmp_path, "s", DIRECTIONS, {"topk-0000": sae})
    write_density(directory, "topk-0000", np.zeros(16))
    made = gather(Request(find_trained(directory), (find_trained(directory),), num_rows=500), tmp_path)
    paths = write_analysis(made, tmp_path / "out")
    assert 'class="failed"' not in paths.html.read_text()
    assert made.features == ()
