from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vsae_search.saes as saes
from vsae_search.saes import _rectified, _sparse_select
from vsae_search.saes._affine import reconstruction_loss
from vsae_search.saes._sparse import Support, selected_preactivations, sparse_reconstruction_loss
from vsae_search.saes._sparse_select import (
    Above,
    TopOfBatch,
    TopOfRow,
    auxiliary_pays,
    fixed_pays,
    select,
    threshold_pays,
    true_positions,
)
from vsae_search.saes._sparse_squares import PositiveSquares


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def always_sparse(monkeypatch):
    monkeypatch.setattr(_sparse_select, "MIN_D_SAE", 0)
    monkeypatch.setattr(_sparse_select, "MAX_DENSITY", 1.0)
    monkeypatch.setattr(_sparse_select, "MAX_AUXILIARY_DENSITY", 1.0)
    monkeypatch.setattr(_sparse_select, "_BLOCK_ELEMENTS", 700)  # about ten rows: several blocks, the last one shorter


def dense_code(entries, num_rows, d_sae):
    support = Support(entries.latent_N, entries.start(), d_sae)
    assert len(support.start_R) == num_rows + 1
    return support.to_dense(entries.value_N)


# -- a step is the same step -------------------------------------------------------------------------------------------

CASES = [
    ("topk", {"k": 4}),
    ("topk", {"k": 4, "aux_k": 7}),
    ("topk", {"k": 4, "aux_coefficient": 0.0}),
    ("topk_ridge", {"k": 4, "ridge_coefficient": 0.5}),
    ("topk_ridge", {"k": 4, "ridge_coefficient": 0.5, "ridge_scope": "winners"}),
    ("vsae_topk", {"k": 4}),
    ("vsae_topk", {"k": 4, "kl_scope": "all"}),
    ("vsae_topk", {"k": 4, "kl_scope": "all", "free_bits": 0.3, "aux_k": 7}),
    ("batch_topk", {"k": 4}),
    ("matryoshka", {"k": 4, "num_widths": 4}),
    ("p_anneal", {}),
    ("relu", {}),
    ("april", {}),
    ("gated", {}),
    ("jumprelu", {}),
    ("jumprelu", {"mode": "step", "bandwidth": 1.0}),
    ("jumprelu", {"mode": "target_l0", "target_l0": 5.0, "straight_through_input": True}),
]


def loss_and_gradients(sae, x_BD):
    sae.zero_grad()
    loss = sae.loss(x_BD, 0.7)
    loss.total.backward()
    return loss, {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize(("name", "params"), CASES)
def test_sparse_and_dense_steps_agree(name, params, dead, dtype, tolerance, request):
    x_BD = normal(37, 16, dtype=dtype)
    sae = saes.create(name, d_in=16, d_sae=64, seed=3, **params)
    with torch.no_grad():
        for index, parameter in enumerate(sae.parameters()):
            parameter.add_(0.1 * normal(*parameter.shape, seed=index, dtype=torch.float32)).abs_() if (
                parameter.ndim == 1 and name == "jumprelu"
            ) else parameter.add_(0.1 * normal(*parameter.shape, seed=index, dtype=torch.float32))
    sae.initialise(x_BD.float())
    sae.to(dtype)
    sae.mark_dead(dead & (torch.arange(64) % 3 == 0))
    dense, expected = loss_and_gradients(sae, x_BD)
    request.getfixturevalue("always_sparse")
    monitor = LargestTensor()
    with monitor:
        sparse, found = loss_and_gradients(sae, x_BD)
    assert monitor.nodes > 0, "the sparse path was taken"
    assert sparse.penalties.keys() == dense.penalties.keys()
    assert torch.equal(sparse.fired_F, dense.fired_F)
    for part in ("total", "reconstruction"):
        torch.testing.assert_close(getattr(sparse, part), getattr(dense, part), rtol=10 * tolerance, atol=0)
    for penalty, value in dense.penalties.items():
        torch.testing.assert_close(sparse.penalties[penalty], value, rtol=10 * tolerance, atol=1e-12)
    for parameter, gradient in expected.items():
        scale = gradient.norm() + 1e-6 * sum(other.norm() for other in expected.values())
        assert (found[parameter] - gradient).norm() <= tolerance * scale, parameter


class LargestTensor(TorchDispatchMode):
    """Notes the largest result of any operation, and how many weighted row sums there were."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.nodes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        self.nodes += "embedding_bag" in str(func)
        return result


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("topk", {}),
        ("batch_topk", {}),
        ("topk_ridge", {"ridge_scope": "all"}),
        ("vsae_topk", {"kl_scope": "all"}),
        ("vsae_topk", {"kl_scope": "active"}),
    ],
)
def test_the_full_code_never_exists(name, params, always_sparse):
    sae, x_BD = saes.create(name, d_in=4, d_sae=64, k=2, **params), normal(500, 4, dtype=torch.float32)
    with LargestTensor() as monitor:
        loss_and_gradients(sae, x_BD)
    assert 500 * 4 <= monitor.largest < 500 * 64 / 4


def test_batch_topk_remembers_the_same_smallest_value(always_sparse, monkeypatch):
    sae, x_BD = saes.create("batch_topk", d_in=16, d_sae=64, k=4), normal(37, 16, dtype=torch.float32)
    sae.loss(x_BD, 0.5)
    sae.after_step()
    sparse = sae.threshold.item()
    other = saes.create("batch_topk", d_in=16, d_sae=64, k=4)
    monkeypatch.setattr(_sparse_select, "MIN_D_SAE", 1000)
    other.loss(x_BD, 0.5)
    other.after_step()
    assert sparse == pytest.approx(other.threshold.item(), rel=1e-6)
    assert sparse > 0


def test_nothing_fires(always_sparse):
    sae, x_BD = saes.create("relu", d_in=6, d_sae=10), normal(5, 6, dtype=torch.float32)
    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    loss, gradients = loss_and_gradients(sae, x_BD)
    assert loss.reconstruction.item() == pytest.approx(x_BD.square().sum(1).mean().item())
    assert not loss.fired_F.any()
    assert gradients["W_enc"].abs().max() == gradients["W_dec"].abs().max() == 0
    assert gradients["b_dec"].abs().max() > 0


# -- dense steps in blocks of rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "april", "gated", "jumprelu"])
def test_a_dense_step_does_not_depend_on_the_blocks(name, monkeypatch):
    sae, x_BD = saes.create(name, d_in=6, d_sae=20, seed=1).double(), normal(23, 6)
    sae.initialise(x_BD)
    monkeypatch.setattr(_rectified, "_BLOCK_ELEMENTS", 1 << 30)
    whole, expected = loss_and_gradients(sae, x_BD)
    monkeypatch.setattr(_rectified, "_BLOCK_ELEMENTS", 100)  # five rows; the last block has three
    blocks, found = loss_and_gradients(sae, x_BD)
    torch.testing.assert_close(blocks.total, whole.total, rtol=1e-12, atol=0)
    assert torch.equal(blocks.fired_F, whole.fired_F)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-10, atol=1e-12, msg=parameter)


# -- reconstruction ----------------------------------------------------------------------------------------------------


def test_reconstruction_equals_finite_differences():
    support = Support(torch.tensor([1, 3, 0, 3, 2]), torch.tensor([0, 2, 2, 5]), 4)  # the second token has no entry
    x_BD = normal(3, 2, seed=1)
    inputs = [normal(5, seed=2), normal(4, 2, seed=3), normal(2, seed=4)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda v, w, b: sparse_reconstruction_loss(v, support, w, b, x_BD)[0], inputs)
    loss, error_BD = sparse_reconstruction_loss(inputs[0], support, inputs[1], inputs[2], x_BD)
    expected, expected_error = reconstruction_loss(support.to_dense(inputs[0]), inputs[1], inputs[2], x_BD)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(error_BD, expected_error)
    assert not error_BD.requires_grad


def test_held_preactivations_do_not_move_the_decoder_bias(always_sparse):
    sae, x_BD = saes.create("topk", d_in=5, d_sae=9, k=2).double(), normal(6, 5)
    gradients = {}
    for part in ("pre_N", "held_N"):
        sae.zero_grad()
        (selected,) = selected_preactivations(sae, x_BD, [TopOfRow(2)])
        getattr(selected, part).sum().backward()
        gradients[part] = (sae.W_enc.grad, sae.b_dec.grad)
    torch.testing.assert_close(gradients["pre_N"][0], gradients["held_N"][0])
    assert gradients["pre_N"][1].norm() > 0
    assert gradients["held_N"][1] is None


# -- squares of all positive pre-activations ---------------------------------------------------------------------------


@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_squares_and_their_gradient_equal_the_dense_sum(subtract_b_dec, monkeypatch):
    monkeypatch.setattr(_sparse_select, "_BLOCK_ELEMENTS", 20)  # blocks of two rows
    sae, x_BD, weight_F = saes.create("topk", d_in=3, d_sae=9, k=2).double(), normal(7, 3), normal(9, seed=1)
    sae.subtract_b_dec = subtract_b_dec

    def penalty():
        squares = PositiveSquares(sae)
        selected_preactivations(sae, x_BD, [TopOfRow(2)], squares)
        return squares.by_latent()

    def gradients(square_F):
        sae.zero_grad()
        square_F.mul(weight_F).sum().backward()
        return {name: sae.get_parameter(name).grad for name in ("W_enc", "b_enc", "b_dec")}

    dense_F = sae.preactivations(x_BD).relu().square().sum(0)
    torch.testing.assert_close(penalty(), dense_F)
    expected, found = gradients(dense_F), gradients(penalty())
    assert (expected["b_dec"] is not None) == subtract_b_dec
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_blocks_are_seen_once_even_if_a_rule_starts_again(always_sparse):
    x_BD, w_DF = normal(100, 8), normal(8, 64, seed=1)
    x_BD[:10] *= 100.0  # the floor guessed from the first block is far too high
    seen = []
    select(x_BD, w_DF, torch.zeros(64, dtype=x_BD.dtype), [TopOfBatch(3)], lambda rows_bD, pre_bF: seen.append(rows_bD))
    assert torch.equal(torch.cat(seen), x_BD)


# -- selection ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_columns", "k"), [(10, 3), (160, 8), (2048, 5), (2048, 64), (2048, 65), (2047, 5), (4, 4)]
)
def test_top_of_row_is_the_top(num_columns, k):
    pre_bF = normal(6, num_columns)
    code_BF = dense_code(TopOfRow(k).pick(pre_bF), 6, num_columns)
    best = pre_bF.topk(k)
    assert torch.equal(code_BF, torch.zeros_like(pre_bF).scatter(1, best.indices, best.values))


def test_top_of_row_among_some_latents():
    pre_bF, among = normal(6, 10), torch.tensor([2, 5, 9])
    entries = TopOfRow(2, among_M=among).pick(pre_bF)
    masked_BF = torch.full_like(pre_bF, -torch.inf).index_copy(1, among, pre_bF[:, among])
    best = masked_BF.topk(2)
    assert torch.equal(dense_code(entries, 6, 10), torch.zeros_like(pre_bF).scatter(1, best.indices, best.values))
    assert TopOfRow(9, among_M=among).pick(pre_bF).count_B.tolist() == [3] * 6


@pytest.mark.parametrize("num_elements", [0, 5, 8, 64, 999, 4096])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def testtrue_positions(num_elements, share):
    mask = torch.rand(num_elements, generator=torch.Generator().manual_seed(1)) < share
    assert torch.equal(true_positions(mask), mask.nonzero().squeeze(1))


@pytest.mark.parametrize("threshold", [0.5, normal(10, seed=4)])
def test_above(threshold):
    pre_bF = normal(7, 10)
    expected = pre_bF * (pre_bF > threshold)
    assert torch.equal(dense_code(Above(threshold).pick(pre_bF), 7, 10), expected)


def batch_top(x_BD, w_DF, k):
    rule = TopOfBatch(k)
    (entries,) = select(x_BD, w_DF, torch.zeros(w_DF.shape[1], dtype=x_BD.dtype), [rule])
    return dense_code(entries, len(x_BD), w_DF.shape[1]), rule.smallest.item()


def positive_top(pre_BF, count):
    best = pre_BF.flatten().topk(count)
    return torch.zeros_like(pre_BF).flatten().scatter(0, best.indices, best.values).view_as(pre_BF).relu()


@pytest.mark.parametrize("scale_of_first_rows", [1.0, 100.0, 0.01])
def test_top_of_batch_is_exact_however_bad_the_first_block_stands_for_the_rest(always_sparse, scale_of_first_rows):
    x_BD, w_DF = normal(100, 8), normal(8, 64, seed=1)
    x_BD[:10] *= scale_of_first_rows
    found, smallest = batch_top(x_BD, w_DF, 3)
    torch.testing.assert_close(found, positive_top(x_BD @ w_DF, 300))
    assert (found > 0).sum() == 300
    assert smallest == pytest.approx(found[found > 0].min().item())


def test_top_of_batch_with_too_few_positive_entries(always_sparse):
    x_BD, w_DF = normal(20, 3).abs(), -torch.eye(3, 16, dtype=torch.float64)
    assert batch_top(x_BD, w_DF, 2)[0].count_nonzero() == 0
    assert batch_top(x_BD, w_DF, 2)[1] == float("inf")
    w_DF[0, 5] = 1.0
    found, smallest = batch_top(x_BD, w_DF, 2)
    assert found.count_nonzero(dim=0).tolist() == [20 * (latent == 5) for latent in range(16)]
    assert smallest == found[:, 5].min().item()


def test_rules_share_one_pass(always_sparse):
    x_BD, w_DF, b_F = normal(50, 8), normal(8, 64, seed=1), normal(64, seed=2)
    pre_BF = torch.addmm(b_F, x_BD, w_DF)
    above, top, batch = select(x_BD, w_DF, b_F, [Above(1.0), TopOfRow(3), TopOfBatch(4)])
    torch.testing.assert_close(dense_code(above, 50, 64), pre_BF * (pre_BF > 1.0))
    assert top.count_B.tolist() == [3] * 50
    torch.testing.assert_close(dense_code(batch, 50, 64), positive_top(pre_BF, 200))


# -- when it pays ------------------------------------------------------------------------------------------------------


def test_choice_for_a_fixed_number():
    x_BD = torch.zeros(4, 8)
    wide, narrow = saes.create("topk", d_in=8, d_sae=1024), saes.create("topk", d_in=8, d_sae=256, k=2)
    assert fixed_pays(wide, x_BD, 32)
    assert not fixed_pays(wide, x_BD, 512)
    assert not fixed_pays(narrow, x_BD, 2)
    assert not fixed_pays(wide, x_BD.to("meta"), 32)
    assert not fixed_pays(wide, x_BD.clone().requires_grad_(), 32)
    assert not fixed_pays(wide.bfloat16(), x_BD.bfloat16(), 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert not fixed_pays(saes.create("topk", d_in=8, d_sae=1024), x_BD, 32)
    assert auxiliary_pays(10, 1000)
    assert not auxiliary_pays(10, 12)
    assert not auxiliary_pays(10, 0)


def test_choice_by_density():
    sae, x_BD = saes.create("relu", d_in=8, d_sae=1024), normal(300, 8, dtype=torch.float32)
    assert not threshold_pays(sae, x_BD)  # half of the latents fire at the start
    assert threshold_pays(sae, x_BD, 3.5 * x_BD.norm(dim=1).mean().item() / 8**0.5)
    with torch.no_grad():
        sae.b_enc.fill_(-10.0)
    assert threshold_pays(sae, x_BD)
    assert threshold_pays(sae, x_BD[:1])
    assert not threshold_pays(sae, x_BD, torch.full((1024,), -30.0))
