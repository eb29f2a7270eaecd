from __future__ import annotations

import pytest
import torch

import vsae_search.saes as saes
from vsae_search.training.dead import DeadTracker, resample
from vsae_search.training.optimiser import build_adam


def test_tracker_counts_rows_since_the_last_firing():
    tracker = DeadTracker(3, window=20)
    tracker.update(torch.tensor([True, False, False]), 10)
    assert tracker.dead().tolist() == [False, False, False]
    tracker.update(torch.tensor([False, True, False]), 10)
    assert tracker.silent_F.tolist() == [10, 0, 20]
    assert tracker.dead().tolist() == [False, False, True]
    tracker.revive(torch.tensor([2]))
    assert tracker.dead().tolist() == [False, False, False]


def trained(name, **params):
    sae = saes.create(name, d_in=4, d_sae=10, **params)
    x_BD = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    optimiser = build_adam(sae)
    for _ in range(3):
        sae.loss(x_BD, 1.0).total.backward()
        optimiser.step()
        optimiser.zero_grad()
        sae.after_step()
    return sae, optimiser, x_BD


@pytest.mark.parametrize("name", ["relu", "april", "vsae_iso"])
def test_resampling_resets_exactly_the_dead_latents(name):
    sae, optimiser, x_BD = trained(name)
    with torch.no_grad():
        sae.b_dec.fill_(0.3)
    dead_F = torch.arange(10) < 3
    before = {key: tensor.clone() for key, tensor in sae.state_dict().items()}
    moments = {
        key: {part: optimiser.state[sae.get_parameter(key)][part].clone() for part in ("exp_avg", "exp_avg_sq")}
        for key in sae.latent_axes()
    }
    assert all((part != 0).any() for parts in moments.values() for part in parts.values())
    index_N = resample(sae, optimiser, dead_F, x_BD, torch.Generator().manual_seed(1))
    assert index_N.tolist() == [0, 1, 2]
    alive_norm = before["W_enc"][:, 3:].norm(dim=0).mean()
    decoder_norm = 1.0 if sae.unit_norm_decoder else before["W_dec"][3:].norm(dim=1).mean().item()
    torch.testing.assert_close(sae.W_enc[:, :3].norm(dim=0), (0.2 * alive_norm).expand(3))
    torch.testing.assert_close(sae.W_dec[:3].norm(dim=1), torch.full((3,), decoder_norm))
    assert sae.b_enc[:3].tolist() == [0.0] * 3
    candidates_BD = torch.nn.functional.normalize(x_BD - 0.3, dim=1)
    for latent in range(3):
        decoder_D = sae.W_dec[latent] / sae.W_dec[latent].norm()
        assert (candidates_BD @ decoder_D).max().item() == pytest.approx(1.0, abs=1e-5)
        assert torch.cosine_similarity(sae.W_enc[:, latent], decoder_D, dim=0).item() == pytest.approx(1.0, abs=1e-5)
    for key, axis in sae.latent_axes().items():
        parameter = sae.get_parameter(key)
        assert torch.equal(parameter.narrow(axis, 3, 7), before[key].narrow(axis, 3, 7)), key
        for part, old in moments[key].items():
            new = optimiser.state[parameter][part]
            assert new.narrow(axis, 0, 3).count_nonzero() == 0
            assert torch.equal(new.narrow(axis, 3, 7), old.narrow(axis, 3, 7))
    assert torch.equal(sae.b_dec, before["b_dec"])


def test_inputs_are_drawn_in_proportion_to_their_squared_error():
    sae, optimiser, _ = trained("relu")
    with torch.no_grad():
        sae.b_dec.zero_()
        sae.b_enc.fill_(-100.0)  # nothing fires: the squared error of a row is its squared norm
    x_BD = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0]))
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(4)
    for _ in range(700):
        resample(sae, optimiser, torch.arange(10) == 0, x_BD, generator)
        counts[sae.W_dec[0].argmax()] += 1
        with torch.no_grad():
            sae.b_enc.fill_(-100.0)
    torch.testing.assert_close(counts / 700, torch.tensor([1.0, 4.0, 9.0, 0.0]) / 14, rtol=0, atol=0.06)


def test_more_dead_latents_than_rows_and_none_alive():
    sae, optimiser, x_BD = trained("relu")
    index_N = resample(sae, optimiser, torch.ones(10, dtype=torch.bool), x_BD[:2], torch.Generator().manual_seed(0))
    assert len(index_N) == 10
    assert torch.isfinite(sae.W_enc).all()
    torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.full((10,), 0.2))


def test_nothing_is_resampled_without_dead_latents_or_without_error():
    sae, optimiser, x_BD = trained("relu")
    before = sae.W_enc.clone()
    assert len(resample(sae, optimiser, torch.zeros(10, dtype=torch.bool), x_BD, torch.Generator())) == 0
    perfect_BD = sae.b_dec.detach().expand(5, 4)
    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    assert len(resample(sae, optimiser, torch.ones(10, dtype=torch.bool), perfect_BD, torch.Generator())) == 0
    assert torch.equal(sae.W_enc, before)
