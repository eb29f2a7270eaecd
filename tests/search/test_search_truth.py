from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from vsae_search.errors import CorruptFile
from vsae_search.search.store.truth import TRUTH_FILE, read_truth, write_truth
from vsae_search.subjects.base import FeatureGroup, GroundTruth

W_DM = np.array([[1.0, -1.0, 0.2], [0.0, 0.5, 0.0]], dtype=np.float32)


def subject(**changes):
    directions = (W_DM / np.linalg.norm(W_DM, axis=0)).T
    truth = GroundTruth(
        directions_MD=np.ascontiguousarray(directions),
        represented_M=np.array([True, True, False]),
        probability_M=np.full(3, 0.1),
        sets=(FeatureGroup("anticorrelated", (0, 1)),),
        true_l0=0.2,
    )
    return SimpleNamespace(**{"truth": truth, **changes})


def test_what_is_written_is_read(tmp_path):
    write_truth(tmp_path, subject(W_DM=W_DM))
    found = read_truth(tmp_path)
    assert found.W_DM.tolist() == W_DM.astype(np.float64).tolist()
    assert found.columns_DM is found.W_DM
    assert np.linalg.norm(found.directions_MD, axis=1) == pytest.approx(1)
    assert found.represented_M.tolist() == [True, True, False]
    assert found.sets == (("anticorrelated", (0, 1)),)


def test_traces_are_columns_or_what_a_hidden_relu_leaves_of_them(tmp_path):
    write_truth(tmp_path, subject(W_DM=W_DM))
    assert read_truth(tmp_path).traces_MD == pytest.approx(W_DM.T)
    left = np.maximum(W_DM.T, 0)
    directions = np.divide(left, np.linalg.norm(left, axis=1, keepdims=True)).astype(np.float32)
    neuron = subject(W_DM=W_DM)
    neuron.truth = dataclasses.replace(neuron.truth, directions_MD=directions)
    (tmp_path / "neuron").mkdir()
    write_truth(tmp_path / "neuron", neuron)
    assert read_truth(tmp_path / "neuron").traces_MD == pytest.approx(left)


def test_without_an_embedding_the_directions_are_the_columns(tmp_path):
    write_truth(tmp_path, subject())
    found = read_truth(tmp_path)
    assert found.W_DM is None
    assert found.columns_DM.tolist() == found.directions_MD.T.tolist()


def test_nothing_is_written_without_a_truth_or_a_second_time(tmp_path):
    write_truth(tmp_path, subject(truth=None))
    assert read_truth(tmp_path) is None
    write_truth(tmp_path, subject())
    write_truth(tmp_path, subject(W_DM=W_DM))
    assert read_truth(tmp_path).W_DM is None


@pytest.mark.parametrize("damage", ["cut", "no_sets", "member", "shape", "nan"])
def test_a_damaged_file_is_told_by_name(tmp_path, damage):
    write_truth(tmp_path, subject(W_DM=W_DM))
    path = tmp_path / TRUTH_FILE
    arrays = {"directions": np.eye(3, 2), "represented": np.ones(3, dtype=bool), "W": W_DM}
    sets = {"sets": '[{"kind": "correlated", "members": [0, 1]}]'}
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "no_sets":
        save_file(arrays, path)
    elif damage == "member":
        save_file(arrays, path, metadata={"sets": '[{"kind": "correlated", "members": [0, 3]}]'})
    elif damage == "shape":
        save_file({**arrays, "W": W_DM.T.copy()}, path, metadata=sets)
    else:
        save_file({**arrays, "directions": np.full((3, 2), np.nan)}, path, metadata=sets)
    with pytest.raises(CorruptFile, match=TRUTH_FILE):
        read_truth(tmp_path)
