from __future__ import annotations

import pytest
import torch
from hand_cases import CountMultiplications, rows

import vsae_search.saes as saes


@pytest.mark.parametrize(
    ("name", "params", "products"),
    [
        ("p_anneal", {}, 5),
        ("batch_topk", {"k": 4}, 5),
        ("matryoshka", {"k": 4}, 5),  # five prefixes for the price of one reconstruction
        ("jumprelu", {}, 5),
        ("jumprelu", {"mode": "step"}, 5),
        ("jumprelu", {"mode": "target_l0"}, 5),
        ("topk_ridge", {"k": 4}, 5),
        ("gated", {}, 7),
    ],
)
def test_matrix_products_of_a_step(name, params, products):
    sae, x_BD = saes.create(name, d_in=8, d_sae=64, **params), rows(32, 8)
    with CountMultiplications() as counter:
        sae.loss(x_BD, 0.5).total.backward()
    assert counter.total == products * 32 * 8 * 64


def test_the_counter_sees_a_plain_step():
    weight = torch.randn(8, 64, requires_grad=True)
    with CountMultiplications() as counter:
        (rows(32, 8) @ weight).sum().backward()
    assert counter.total == 2 * 32 * 8 * 64
