from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vsae_search.saes as saes
from vsae_search.errors import UserInputError
from vsae_search.saes._affine import encoder_affine, reconstruction_loss
from vsae_search.saes._auxk import keep_largest
from vsae_search.saes._init import geometric_median
from vsae_search.saes._threshold import threshold_for_l0


def tensors(*shapes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("x_needs_grad", [False, True])
def test_encoder_affine_has_the_plain_gradient(x_needs_grad):
    x, w, b, c = tensors((7, 3), (3, 5), (5,), (3,))
    x.requires_grad_(x_needs_grad)
    inputs = [tensor for tensor in (x, w, b, c) if tensor.requires_grad]
    weight = torch.linspace(-1, 2, 35, dtype=torch.float64).view(7, 5)
    ours = torch.autograd.grad((encoder_affine(x, w, b, c) * weight).sum(), inputs)
    plain = torch.autograd.grad((((x - c) @ w + b) * weight).sum(), inputs)
    for first, second in zip(ours, plain, strict=True):
        torch.testing.assert_close(first, second)


def test_reconstruction_loss_has_the_plain_value_and_gradient():
    f, w, c, x = tensors((7, 5), (5, 3), (3,), (7, 3))
    x.requires_grad_(False)
    loss, error = reconstruction_loss(f, w, c, x)
    plain = (x - (f @ w + c)).square().sum(1).mean()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(error, f @ w + c - x)
    assert not error.requires_grad
    for first, second in zip(
        torch.autograd.grad(3 * loss, (f, w, c)), torch.autograd.grad(3 * plain, (f, w, c)), strict=True
    ):
        torch.testing.assert_close(first, second)


class CountProducts(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in {"mm", "addmm", "addmm_", "bmm", "baddbmm"}:
            self.products.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["relu", "april", "topk", "vsae_iso"])
def test_a_step_needs_five_matrix_products(name):
    sae = saes.create(name, d_in=8, d_sae=40)
    with CountProducts() as counter:
        sae.loss(torch.randn(16, 8), 1.0).total.backward()
    assert len(counter.products) == 5


def test_keep_largest_against_sorting():
    pre_BF = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    for k in (1, 4, 12):
        kth_B1 = pre_BF.sort(dim=1, descending=True).values[:, k - 1 : k]
        torch.testing.assert_close(keep_largest(pre_BF, k), pre_BF.relu() * (pre_BF >= kth_B1))


def test_geometric_median_is_the_point_of_least_distance_and_ignores_outliers():
    x_BD = torch.randn(301, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_BD[:20] += 1000.0
    median_D = geometric_median(x_BD)

    def distance(point_D):
        return (x_BD - point_D).norm(dim=1).mean().item()

    for axis in range(4):
        for sign in (-1, 1):
            shifted = median_D.clone()
            shifted[axis] += sign * 0.01
            assert distance(median_D) < distance(shifted)
    assert median_D.norm() < 1.0 < x_BD.mean(0).norm()
    same = torch.ones(5, 3)
    torch.testing.assert_close(geometric_median(same), same[0])


def test_initialise_sets_the_decoder_bias_only_where_it_is_subtracted():
    x_BD = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) + 3.0
    for name, expected in (("relu", 3.0), ("topk", 3.0), ("vsae_iso", 3.0), ("april", 0.0)):
        sae = saes.create(name, d_in=4, d_sae=8, **({"k": 2} if name == "topk" else {}))
        assert not sae.initialised
        sae.initialise(x_BD)
        assert sae.initialised
        torch.testing.assert_close(sae.b_dec.data, torch.full((4,), expected), rtol=0, atol=0.2)


def test_encoder_starts_as_the_transposed_decoder():
    for name, norm in (("relu", 1.0), ("april", 0.1)):
        sae = saes.create(name, d_in=16, d_sae=32, seed=4)
        assert torch.equal(sae.W_enc, sae.W_dec.T)
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((32,), norm))
        assert sae.b_enc.count_nonzero() == sae.b_dec.count_nonzero() == 0


def test_threshold_for_l0_is_exact():
    codes = torch.randn(90, 7, generator=torch.Generator().manual_seed(0)).relu()
    for target in (0.5, 2.0, 3.3):
        theta = threshold_for_l0(codes.split(13), 90, target)
        assert (codes > theta).sum().item() == round(90 * target)
    assert threshold_for_l0([codes], 90, 7.0) == 0.0
    assert threshold_for_l0([torch.zeros(4, 7)], 4, 1.0) == 0.0


def test_auxiliary_gradient_moves_dead_latents_and_nothing_else():
    sae = saes.create("topk", d_in=4, d_sae=10, k=2)
    x_BD = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_dec.fill_(0.2)
        sae.b_enc[:3] = -0.5
    dead_F = torch.arange(10) < 3
    sae.mark_dead(dead_F)
    sae.loss(x_BD, 1.0).penalties["auxk"].backward()
    assert (sae.W_enc.grad[:, :3].abs().sum(0) > 0).all()
    assert (sae.b_enc.grad[:3] != 0).all()
    assert (sae.W_dec.grad[:3].abs().sum(1) > 0).all()
    assert sae.W_enc.grad[:, 3:].count_nonzero() == sae.W_dec.grad[3:].count_nonzero() == 0
    assert sae.b_dec.grad is None or sae.b_dec.grad.count_nonzero() == 0


def test_topk_resamples_only_what_the_auxiliary_loss_cannot_reach():
    sae = saes.create("topk", d_in=4, d_sae=6, k=2)
    with torch.no_grad():
        sae.b_enc[0] = -1e3  # negative everywhere
    dead_F = torch.tensor([True, True, False, False, False, False])
    x_BD = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    assert sae.resample_candidates(dead_F, x_BD).nonzero().flatten().tolist() == [0]
    assert sae.resample_at() == (0.25, 0.5)


def test_canonical_form_of_a_threshold_and_of_a_zero_row():
    sae = saes.create("april", d_in=3, d_sae=4)
    with torch.no_grad():
        sae.W_dec[1] = 0.0
    folded, x_BD = sae.canonical(), torch.randn(9, 3)
    assert torch.isfinite(folded.W_dec_FD).all()
    torch.testing.assert_close(folded(x_BD), sae(x_BD))
    assert not folded.W_dec_FD.requires_grad


def test_configurations_can_be_used_again_and_are_checked():
    params = {"d_in": 4, "d_sae": 8, "k": 2}
    first, second = saes.create("topk", **params), saes.create("topk", **params)
    assert first.config == second.config
    assert params == {"d_in": 4, "d_sae": 8, "k": 2}
    with pytest.raises(UserInputError, match="k = 9 is more than d_sae = 8"):
        saes.create("topk", d_in=4, d_sae=8, k=9)
    with pytest.raises(UserInputError, match="l1_coeficient"):
        saes.create("relu", d_in=4, d_sae=8, l1_coeficient=1.0)
    with pytest.raises(UserInputError, match="lr"):
        saes.create("relu", d_in=4, d_sae=8, lr=float("nan"))
    with pytest.raises(UserInputError, match=r"unknown architecture 'top_k'[\s\S]*'topk'"):
        saes.create("top_k", **params)


@pytest.mark.parametrize("name", ["", "With-Dash", "Upper", "a b"])
def test_names_are_lower_case_identifiers(name):
    with pytest.raises(UserInputError, match="cannot name"):
        saes.register(name)(saes.SparseAutoencoder)
