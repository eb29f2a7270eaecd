"""What the comparison with other libraries needs: their numbers, our architectures with the same weights, assertions.

Shapes: B batch, D d_in, F d_sae, N dead latents, K dead latents that are used.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import vsae_search.saes as saes

FOLDER = Path(__file__).resolve().parent
PEERS = {
    name: json.loads((FOLDER / "fixtures" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("inputs", "saelens", "dictionary_learning", "sparsify")
}
SETTINGS = PEERS["inputs"]["settings"]
EXACT, SINGLE = 1e-9, 1e-5
"""Relative tolerances: of float64 throughout, and where a library takes a step in float32."""


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


VALUES = {name: tensor(values) for name, values in PEERS["inputs"]["values"].items()}
X_BD = VALUES["x"]
D_IN, D_SAE = VALUES["W_enc"].shape
DEAD = SETTINGS["dead"]
AUX_K = D_IN // 2


def case(peer, name):
    """One case with tensors for lists of numbers."""
    found = dict(PEERS[peer]["cases"][name])
    found["code"], found["reconstruction"] = tensor(found["code"]), tensor(found["reconstruction"])
    found["gradients"] = {
        term: {parameter: tensor(values) for parameter, values in gradients.items()}
        for term, gradients in found["gradients"].items()
    }
    return found


def ours(name, *, values=VALUES, free_norm=False, dead=(), **params):
    """An architecture of ours in float64 with the weights of the fixtures."""
    sae = saes.create(name, d_in=D_IN, d_sae=D_SAE, **params).double()
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            parameter.copy_(values[key])
        if free_norm:
            sae.W_dec.mul_(values["norm"][:, None])
    if dead:
        sae.mark_dead(torch.isin(torch.arange(D_SAE), torch.tensor(dead)))
    return sae


def agree(actual, expected, rel=EXACT):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    scale = expected.abs().max().item()
    # sums in another order leave rounding errors where the other has 0
    torch.testing.assert_close(actual.detach(), expected, rtol=rel, atol=rel * scale + 1e-13)


def gradients(sae, value):
    names, parameters = zip(*sae.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def across(gradient_FD, W_dec_FD):
    """What is left of a decoder gradient once its part along the decoder rows is removed."""
    unit_FD = torch.nn.functional.normalize(W_dec_FD.detach(), dim=1)
    return gradient_FD - (gradient_FD * unit_FD).sum(1, keepdim=True) * unit_FD


def agree_on_term(sae, value, peer, term, *, factor=1.0, rel=EXACT, unit_rows=False, without=()):
    """Ours is ``factor`` times the peer's, in value and in the gradient of every parameter not in ``without``.

    With ``unit_rows`` decoder gradients are compared across the rows only: what lies along them is projected off before
    a step, and a penalty weighted by the norm of rows has its decoder gradient there.
    """
    agree(value, factor * peer["losses"][term], rel)
    found, theirs = gradients(sae, value), peer["gradients"][term]
    assert set(found) == set(theirs)
    for name in set(found) - set(without):
        mine, other = found[name], factor * theirs[name]
        if unit_rows and name == "W_dec":
            mine, other = across(mine, sae.W_dec), across(other, sae.W_dec)
            torch.testing.assert_close(mine, other, rtol=rel, atol=rel * theirs[name].abs().max().item())
        else:
            agree(mine, other, rel)


def agree_on_outputs(sae, peer):
    with torch.no_grad():
        agree(sae.encode(X_BD), peer["code"])
        agree(sae(X_BD), peer["reconstruction"])


def terms(loss):
    return {"reconstruction": loss.reconstruction, **loss.penalties}


def kept_in_batch(sae):
    """Code of training, which for a budget per batch is not what ``encode`` gives."""
    with torch.no_grad():
        return sae.select(sae.preactivations(X_BD))[0]


def dead_estimate(sae, dead, *, rectify):
    """What dead latents contribute to the auxiliary loss, written out [B, D]."""
    with torch.no_grad():
        pre_BK, index_BK = sae.preactivations(X_BD)[:, list(dead)].topk(min(AUX_K, len(dead)))
        used_BN = torch.zeros(len(X_BD), len(dead), dtype=torch.float64).scatter(1, index_BK, pre_BK)
        return (used_BN.relu() if rectify else used_BN) @ sae.W_dec[list(dead)]


def residual_variance(peer):
    residual_BD = X_BD - peer["reconstruction"]
    return (residual_BD - residual_BD.mean(0)).square().sum(1).mean()


def agree_on_auxk(sae, peer, *, factor, rel=EXACT):
    """The auxiliary loss, whose gradient of ``b_dec`` we leave out.

    Theirs reaches ``b_dec`` through the encoder's ``x - b_dec``. It is to move dead latents and nothing else, so here
    ``b_dec`` is a constant in it.
    """
    auxk = sae.loss(X_BD, 1.0).penalties["auxk"]
    agree_on_term(sae, auxk, peer, "auxk", factor=factor, rel=rel, without=("b_dec",))
    found, theirs = gradients(sae, auxk), peer["gradients"]["auxk"]
    assert not found["b_dec"].any()
    agree(-(sae.W_enc @ theirs["b_enc"]), theirs["b_dec"], rel)
