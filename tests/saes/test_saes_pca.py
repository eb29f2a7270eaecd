from __future__ import annotations

import itertools

import pytest
import torch
from hand_cases import rows

import vsae_search.saes as saes
from vsae_search.space import TrainingSpec
from vsae_search.training import fit


def data(num_rows=1000, seed=0):
    """Rows with an offset and a known, uneven spread in six directions."""
    basis = torch.linalg.qr(rows(6, 6, seed=42))[0]
    return rows(num_rows, 6, seed) * torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.1]) @ basis + 1.5


def solved(x_BD, d_sae, k):
    sae = saes.create("pca", d_in=x_BD.shape[1], d_sae=d_sae, k=k)
    sae.initialise(x_BD)
    for batch_BD in x_BD.split(99):
        sae.observe(batch_BD)
    sae.solve()
    return sae


def test_components_are_those_of_the_singular_value_decomposition():
    x_BD = data()
    sae = solved(x_BD, d_sae=8, k=4)
    _, _, right_DD = torch.linalg.svd(x_BD - x_BD.mean(0), full_matrices=False)
    overlap_44 = (sae.W_dec[:4] @ right_DD[:4].T).abs()
    torch.testing.assert_close(overlap_44, torch.eye(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(sae.W_dec[4:8], -sae.W_dec[:4])
    torch.testing.assert_close(sae.b_dec.data, x_BD.mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_pairs", [1, 3, 6])
def test_error_is_the_variance_of_the_components_left_out(num_pairs):
    x_BD = data()
    sae = solved(x_BD, d_sae=2 * num_pairs, k=num_pairs)
    variances = torch.linalg.eigvalsh(torch.cov(x_BD.T, correction=0)).flip(0)
    error = sae.loss(x_BD, 1.0).total.item()
    assert error == pytest.approx(variances[num_pairs:].sum().item(), rel=1e-3, abs=1e-4)


def test_kept_components_are_the_best_choice_for_each_row():
    x_BD = data(40)
    sae = solved(x_BD, d_sae=12, k=2)
    error_B = (sae(x_BD) - x_BD).square().sum(1)
    directions_PD = sae.W_dec[:6]
    projections_BP = (x_BD - sae.b_dec) @ directions_PD.T
    for pair in itertools.combinations(range(6), 2):
        chosen = list(pair)
        xhat_BD = projections_BP[:, chosen] @ directions_PD[chosen] + sae.b_dec
        assert ((xhat_BD - x_BD).square().sum(1) >= error_B - 1e-4).all()


def test_of_two_signs_one_fires_and_l0_counts_directions():
    x_BD = data(500)
    f_BF = solved(x_BD, d_sae=12, k=12).encode(x_BD)
    assert (f_BF >= 0).all()
    assert ((f_BF[:, :6] > 0) & (f_BF[:, 6:] > 0)).sum().item() == 0
    assert ((f_BF > 0).sum(1) == 6).all()
    assert ((solved(x_BD, d_sae=12, k=2).encode(x_BD) > 0).sum(1) == 2).all()


@pytest.mark.parametrize("d_sae", [1, 7, 15])
def test_latents_that_make_no_pair_never_fire(d_sae):
    x_BD = data(300)
    sae = solved(x_BD, d_sae=d_sae, k=1)
    num_latents = 2 * min(d_sae // 2, 6)
    assert sae.encode(x_BD)[:, num_latents:].count_nonzero() == 0
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(d_sae))
    torch.testing.assert_close(sae.canonical()(x_BD), sae(x_BD), rtol=1e-4, atol=1e-4)


def test_far_from_the_origin_the_covariance_keeps_its_digits():
    x_BD = data() + 1000.0
    sae = solved(x_BD, d_sae=12, k=6)
    assert sae.loss(x_BD, 1.0).total.item() < 1e-3


def test_every_rung_uses_all_rows_so_far():
    sae, losses = saes.create("pca", d_in=6, d_sae=4, k=2), []
    x_BD = data(20 * 64)
    spec = TrainingSpec(num_tokens=20 * 64, batch_size=64)
    fit(sae, iter(x_BD.split(64)), spec, on_rung=lambda rung: losses.append(rung.losses["total"]))
    torch.testing.assert_close(sae.W_dec, solved(x_BD, d_sae=4, k=2).W_dec, rtol=1e-4, atol=1e-4)
    assert len(losses) == 3
    assert not sae.trained_by_gradient


def test_solving_without_rows_is_a_mistake():
    with pytest.raises(AssertionError, match="after observe"):
        saes.create("pca", d_in=2, d_sae=4, k=1).solve()
