from __future__ import annotations

import numpy as np
import pytest
from evaluation_standins import Identity, Linear, Predictor, Squares, random_unit, run, sparse_rows

ROWS = sparse_rows(random_unit(10, 6))
SAE = Linear(random_unit(8, 6, seed=3))


def test_the_divergence_is_the_mean_over_sequences():
    found = run(SAE, ROWS, Predictor(rows_per_sequence=4))
    assert found.arrays["kl_sequences"].shape == (100,)
    np.testing.assert_allclose(found.arrays["kl_sequences"], found.arrays["delta_ce_sequences"] / 2)
    assert found.metrics["kl"] == pytest.approx(found.metrics["delta_ce"] / 2)


def test_the_subject_is_run_once_for_both_metrics():
    subject = Predictor()
    run(SAE, ROWS, subject)
    assert len(subject.spliced) == 4, "three for the baseline, one for the splice"


def test_a_perfect_autoencoder_does_not_diverge():
    assert run(Identity(6), ROWS, Predictor(), scale=1.7).metrics["kl"] == 0


def test_a_subject_that_predicts_nothing_has_no_divergence():
    found = run(SAE, ROWS, Squares())
    assert "kl" not in found.metrics
    assert "kl_sequences" not in found.arrays


def test_the_loss_alone_costs_no_comparison():
    subject = Predictor()
    subject.splice_with_kl = None
    found = run(SAE, ROWS, subject, only={"delta_ce"})
    assert set(found.metrics) == {"delta_ce"}
