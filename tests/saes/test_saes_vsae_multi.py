from __future__ import annotations

import time

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

import vsae_search.saes as saes
from vsae_search.errors import UserInputError
from vsae_search.training.optimiser import build_adam

LOW_RANK = {"covariance": "low_rank", "rank": 3, "shared_variance": 0.6}
BLOCK = {"covariance": "block", "block_size": 3, "rho": 0.6}


def make(name="vsae_multi", d_in=4, d_sae=7, **params):
    return saes.create(name, d_in=d_in, d_sae=d_sae, **params)


def rows(num_rows, d_in=4, seed=5):
    return torch.randn(num_rows, d_in, generator=torch.Generator().manual_seed(seed))


def covariance(sae):
    if sae.config.covariance == "low_rank":
        factors_FR = sae.factors.detach()
        return torch.diag(1 - factors_FR.square().sum(1)) + factors_FR @ factors_FR.T
    blocks = [torch.full((3, 3), 0.6, dtype=sae.W_dec.dtype).fill_diagonal_(1.0)] * 2
    return torch.block_diag(*blocks, torch.ones(1, 1, dtype=sae.W_dec.dtype))


@pytest.mark.parametrize("params", [LOW_RANK, BLOCK])
def test_loss_and_metrics_hold_the_divergence_of_the_dense_model(params):
    sae, x_BD = make(kl_coefficient=0.3, **params).double(), rows(9).double()
    mu_BF = sae.posterior_mean(x_BD)
    posterior = MultivariateNormal(mu_BF, torch.diag(sae.log_variance.exp()))
    nats_B = kl_divergence(posterior, MultivariateNormal(torch.zeros(7).double(), covariance(sae)))
    torch.testing.assert_close(sae.loss(x_BD, 1.0).penalties["kl"], 0.3 * nats_B.mean())
    sae.calibrate(x_BD)
    assert sae.metrics()["kl_nats"] == pytest.approx(nats_B.mean().item(), rel=1e-10)


@pytest.mark.parametrize(
    "params", [{"covariance": "block", "rho": 0.0}, {"covariance": "low_rank", "shared_variance": 0.0}]
)
def test_without_correlations_it_is_vsae_iso(params):
    if params["covariance"] == "low_rank":
        params = params | {"learn_covariance": False}
    multi, iso, x_BD = make(**params).double(), make("vsae_iso").double(), rows(9).double()
    losses = [sae.loss(x_BD, 0.9) for sae in (multi, iso)]
    assert losses[0].penalties.keys() == losses[1].penalties.keys()
    for first, second in zip(losses[0].penalties.values(), losses[1].penalties.values(), strict=True):
        torch.testing.assert_close(first, second)
    for loss in losses:
        loss.total.backward()
    for name, parameter in iso.named_parameters():
        torch.testing.assert_close(multi.get_parameter(name).grad, parameter.grad)
    for sae in (multi, iso):
        sae.calibrate(x_BD)
    assert multi.metrics() == pytest.approx(iso.metrics())


@pytest.mark.parametrize("params", [LOW_RANK, BLOCK])
def test_posterior_variances_start_at_their_optimum(params):
    sae = make(kl_coefficient=0.8, **params).double()
    sae.loss(rows(16).double(), 1.0).total.backward()
    assert sae.log_variance.grad.abs().max() < 1e-7  # the start was computed in float32
    assert not torch.allclose(sae.log_variance.exp(), torch.full((7,), 0.8 / 2.8).double(), rtol=1e-3)


def test_correlated_means_cost_less_than_the_same_means_apart():
    sae = make(**BLOCK).double()
    together, apart = torch.zeros(2, 1, 7).double()
    together[0, [0, 1]] = 1.5
    apart[0, [0, 3]] = 1.5
    assert sae.divergence(together)[0] < sae.divergence(apart)[0] - 0.5


def test_factors_are_learned_and_kept_proper():
    sae = make(d_in=4, d_sae=12, rank=2, shared_variance=0.2, kl_coefficient=2.0, lr=0.02)
    optimiser, x_BD, start = build_adam(sae), rows(512), sae.factors.detach().clone()
    first = sae.loss(x_BD, 1.0).total.item()
    for _ in range(200):
        optimiser.zero_grad()
        sae.loss(x_BD, 1.0).total.backward()
        sae.before_step()
        optimiser.step()
        sae.after_step()
    assert (sae.factors - start).norm() > 0.5
    assert sae.factors.square().sum(1).max() <= 0.99 + 1e-6
    assert sae.loss(x_BD, 1.0).total.item() < first
    fixed = make(d_sae=12, learn_covariance=False)
    fixed.loss(x_BD, 1.0).total.backward()
    assert fixed.factors.grad is None


def test_factors_find_the_correlation_of_the_means():
    # means that fire together by construction; only the prior is learned
    sae = make(d_in=2, d_sae=4, rank=1, shared_variance=0.05, kl_coefficient=1.0).double()
    amplitude_B = 2.0 * (torch.rand(4000, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    independent_B = 2.0 * (torch.rand(4000, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    zero_B = torch.zeros_like(amplitude_B)
    mu_BF = torch.stack([amplitude_B, amplitude_B, independent_B, zero_B], dim=1)
    optimiser = torch.optim.Adam([sae.factors], lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        sae.divergence(mu_BF)[0].backward()
        optimiser.step()
        sae.after_step()
    correlation_FF = (sae.factors @ sae.factors.T).detach()
    assert correlation_FF[0, 1] > 0.5
    assert correlation_FF[3, :3].abs().max() < 0.1


def test_assigned_factors_are_the_prior():
    sae = make(rank=2, learn_covariance=False)
    wanted_FR = torch.zeros(7, 2)
    wanted_FR[:2, 0], wanted_FR[2:4, 1] = 0.8, 2.0
    sae.assign_factors(wanted_FR)
    assert covariance(sae)[0, 1].item() == pytest.approx(0.64)
    assert covariance(sae)[2, 3].item() == pytest.approx(0.99)
    with pytest.raises(UserInputError, match="factors"):
        sae.assign_factors(torch.zeros(7, 3))
    with pytest.raises(UserInputError, match="low_rank"):
        make(covariance="block").assign_factors(wanted_FR)


def test_a_replaced_latent_is_independent():
    sae = make(**LOW_RANK)
    sae.replace_latents(torch.tensor([2]), torch.eye(4)[:1], torch.ones(7, dtype=torch.bool))
    assert covariance(sae)[2].tolist() == pytest.approx([0, 0, 1, 0, 0, 0, 0])
    assert sae.latent_axes()["factors"] == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"covariance": "block", "block_size": 4, "rho": -0.34}, "block_size"),
        ({"shared_variance": 0.0}, "learn_covariance"),
        ({"shared_variance": 0.995}, "shared_variance"),
        ({"legacy_seed": True, "d_sae": 5000}, "4096"),
        ({"legacy_seed": True, "rho": -0.5}, "d_sae - 1"),
    ],
)
def test_improper_priors_are_refused(params, message):
    with pytest.raises(UserInputError, match=message):
        make(**params)


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation, forward or backward, gives back."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("params", [{"rank": 64}, {"covariance": "block"}])
def test_no_square_matrix_at_24576_latents(params):
    d_sae = 24_576
    sae, x_BD = make(d_in=16, d_sae=d_sae, **params), rows(32, d_in=16)
    start = time.perf_counter()
    with LargestTensor() as largest:
        sae.loss(x_BD, 1.0).total.backward()
    assert largest.numel <= 64 * d_sae  # F x R; the square would be 24576 F
    assert time.perf_counter() - start < 20
    assert all(torch.isfinite(parameter.grad).all() for parameter in sae.parameters())
