from __future__ import annotations

import itertools
import math

import pytest
import torch

from vsae_search.saes._presence import largest_set, structure_correction


def states(size):
    return torch.tensor(list(itertools.product([0, 1], repeat=size))).double()


def joint_prior(kind, size, alpha, smoothing):
    """Probability of every state of a set, as the definition has it [2^M]."""
    on_SM = states(size)
    independent = (alpha**on_SM * (1 - alpha) ** (1 - on_SM)).prod(1)
    structured = torch.zeros(len(on_SM)).double()
    if kind == "correlated":
        structured[-1], structured[0] = alpha, 1 - alpha
    else:
        structured[on_SM.sum(1) == 1], structured[0] = alpha, 1 - size * alpha
    return (1 - smoothing) * structured + smoothing * independent


def brute_force(logit_M, kind, alpha, smoothing):
    """KL(q || p) over all states, less that of independent gates."""
    gamma_M, on_SM = logit_M.sigmoid(), states(len(logit_M))
    q_S = (gamma_M**on_SM * (1 - gamma_M) ** (1 - on_SM)).prod(1)
    joint = (q_S * (q_S / joint_prior(kind, len(logit_M), alpha, smoothing)).log()).sum()
    single = gamma_M * (gamma_M / alpha).log() + (1 - gamma_M) * ((1 - gamma_M) / (1 - alpha)).log()
    return joint.item(), (joint - single.sum()).item()


CASES = [(kind, size) for kind in ("correlated", "anticorrelated") for size in (2, 3, 5, 8)]


@pytest.mark.parametrize(("kind", "size"), CASES)
@pytest.mark.parametrize("smoothing", [0.02, 0.05, 0.5, 1.0])
def test_correction_equals_enumeration(kind, size, smoothing):
    alpha = 0.09
    logit_SM = 3.0 * torch.randn(10, size, generator=torch.Generator().manual_seed(size)).double()
    got_S = structure_correction(logit_SM[None], kind, alpha, smoothing)[0]
    wanted_S = [brute_force(logit_M, kind, alpha, smoothing) for logit_M in logit_SM]
    assert got_S.tolist() == pytest.approx([extra for _, extra in wanted_S], abs=1e-10)
    assert all(joint >= 0 for joint, _ in wanted_S)
    if smoothing == 1.0:
        assert got_S.abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["correlated", "anticorrelated"])
def test_correction_equals_monte_carlo(kind):
    alpha, smoothing, logit_M = 0.2, 0.05, torch.tensor([0.5, -1.0, -0.3]).double()
    gamma_M, num = logit_M.sigmoid(), 200_000
    draws_NM = (torch.rand(num, 3, generator=torch.Generator().manual_seed(0)).double() < gamma_M).double()
    code_N = (draws_NM @ torch.tensor([4.0, 2.0, 1.0]).double()).long()
    log_p_N = joint_prior(kind, 3, alpha, smoothing).log()[code_N]
    log_base_N = (draws_NM * math.log(alpha) + (1 - draws_NM) * math.log(1 - alpha)).sum(1)
    sample_N = log_base_N - log_p_N  # KL(q || p) - KL(q || base), sample by sample
    exact = structure_correction(logit_M[None, None], kind, alpha, smoothing).item()
    assert sample_N.mean().item() == pytest.approx(exact, abs=4 * sample_N.std().item() / math.sqrt(num))


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_the_prior_is_a_distribution_with_marginals_alpha(kind, size):
    p_S, on_SM = joint_prior(kind, size, 0.1, 0.05), states(size)
    assert p_S.sum().item() == pytest.approx(1.0)
    assert (p_S @ on_SM).tolist() == pytest.approx([0.1] * size)


@pytest.mark.parametrize("kind", ["correlated", "anticorrelated"])
def test_gradient(kind):
    logit_BSM = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: structure_correction(x, kind, 0.1, 0.05), logit_BSM)


@pytest.mark.parametrize("kind", ["correlated", "anticorrelated"])
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_certain_gates_are_finite(kind, logit):
    logit_BSM = torch.full((1, 1, 4), logit, requires_grad=True)
    extra = structure_correction(logit_BSM, kind, 1e-3, 0.05)
    extra.sum().backward()
    assert torch.isfinite(extra).all()
    assert torch.isfinite(logit_BSM.grad).all()


def test_how_many_can_take_turns():
    assert largest_set("anticorrelated", 0.25, 8) == 4
    assert largest_set("anticorrelated", 0.3, 8) == 3
    assert largest_set("anticorrelated", 1 / 49, 8) == 8
    assert largest_set("correlated", 0.9, 8) == 8
    # at M alpha = 1 the state in which all are off has only the smoothed probability
    logit_M = torch.tensor([-1.0, 0.2, 0.4, -2.0]).double()
    got = structure_correction(logit_M[None, None], "anticorrelated", 0.25, 0.05).item()
    assert got == pytest.approx(brute_force(logit_M, "anticorrelated", 0.25, 0.05)[1])
