"""Our architectures against SAELens, dictionary_learning and sparsify on the same weights and rows.

What those libraries compute lies in ``fixtures/``, written by ``make_fixtures.py``. Where a library follows the paper
the numbers must be equal: code, reconstruction, every term of the loss and the gradient of every term. Where it does
not, or normalises differently, the test states the exact relation instead and says why. Both ways of taking a training
step, dense and sparse, are held to it.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

import re

import pytest
import torch
from peer_cases import (
    AUX_K,
    D_IN,
    DEAD,
    EXACT,
    FOLDER,
    PEERS,
    SETTINGS,
    SINGLE,
    VALUES,
    X_BD,
    agree,
    agree_on_auxk,
    agree_on_outputs,
    agree_on_term,
    case,
    dead_estimate,
    gradients,
    kept_in_batch,
    ours,
    residual_variance,
    tensor,
    terms,
)

from vsae_search.saes import _sparse_select


@pytest.fixture(autouse=True, params=["dense", "sparse"])
def step(request, monkeypatch):
    """Which of the two training steps is taken; so narrow a dictionary is otherwise trained densely."""
    if request.param == "sparse":
        monkeypatch.setattr(_sparse_select, "MIN_D_SAE", 0)
        monkeypatch.setattr(_sparse_select, "MAX_DENSITY", 1.0)
        monkeypatch.setattr(_sparse_select, "MAX_AUXILIARY_DENSITY", 1.0)


# -- the fixtures themselves -----------------------------------------------------------------------------------------


def test_fixtures_are_of_the_versions_that_are_installed_for_comparison():
    root = FOLDER.parent.parent
    script = (root / "benchmarks" / "setup_peers.sh").read_text(encoding="utf-8")
    pinned = dict(re.findall(r'"([a-z-]+)==([0-9.]+)"', script))
    pinned |= dict(re.findall(r"^(torch)==([0-9.]+)", (root / "constraints.txt").read_text(encoding="utf-8"), re.M))
    seen = {name: version for peer in PEERS.values() for name, version in peer["versions"].items()}
    assert seen == pinned


def test_fixtures_test_something():
    """The rows reach every branch: negative dead pre-activations, codes in the window, silent latents in it too."""
    pre_BF = (X_BD - VALUES["b_dec"]) @ VALUES["W_enc"] + VALUES["b_enc"]
    assert (pre_BF[:, DEAD["many"]] > 0).all()
    assert (pre_BF[:, DEAD["mixed"]] < 0).any()
    window_BF = (X_BD @ VALUES["W_enc"] + VALUES["b_enc"] - VALUES["threshold"]).abs() < SETTINGS["bandwidth"] / 2
    assert 0.2 < window_BF.double().mean() < 0.8
    assert (VALUES["threshold"] < SETTINGS["bandwidth"] / 2).any()
    for peer in ("saelens", "dictionary_learning", "sparsify"):
        for name in PEERS[peer]["cases"]:
            found = case(peer, name)
            assert found["code"].any(), name
            assert all(found["losses"].values()), name


# -- L1 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["saelens", "dictionary_learning"])
def test_relu(peer):
    sae, theirs = ours("relu", l1_coefficient=SETTINGS["l1"]), case(peer, "standard")
    agree_on_outputs(sae, theirs)
    for term, value in terms(sae.loss(X_BD, 1.0)).items():
        # SAELens weights the penalty by decoder norms, here all 1
        agree_on_term(sae, value, theirs, term, unit_rows=peer == "saelens" and term == "l1")


def test_april_is_saelens_standard_without_input_bias():
    sae = ours("april", free_norm=True, l1_coefficient=SETTINGS["l1"])
    theirs = case("saelens", "standard_april")
    agree_on_outputs(sae, theirs)
    for term, value in terms(sae.loss(X_BD, 1.0)).items():
        agree_on_term(sae, value, theirs, term)


def test_april_is_the_april_trainer_of_dictionary_learning_without_bias():
    # its default autoencoder subtracts the decoder bias from the input, which the April update does not; at 0 it is one
    values = VALUES | {"b_dec": torch.zeros(D_IN)}
    sae = ours("april", values=values, free_norm=True, l1_coefficient=SETTINGS["l1"])
    theirs = case("dictionary_learning", "april_default")
    agree_on_outputs(sae, theirs)
    for term, value in terms(sae.loss(X_BD, 1.0)).items():
        agree_on_term(sae, value, theirs, term, without=("b_dec",))
        through_encoder_D = -(sae.W_enc @ theirs["gradients"][term]["b_enc"])
        agree(gradients(sae, value)["b_dec"] + through_encoder_D, theirs["gradients"][term]["b_dec"])


def test_april_with_the_other_autoencoder_of_dictionary_learning_counts_the_norm_twice():
    # AutoEncoderNew returns f ‖w‖ as the features, and the trainer multiplies by ‖w‖ once more
    sae = ours("april", free_norm=True, l1_coefficient=SETTINGS["l1"])
    theirs = case("dictionary_learning", "april_new")
    agree_on_outputs(sae, theirs)
    loss = sae.loss(X_BD, 1.0)
    agree_on_term(sae, loss.reconstruction, theirs, "reconstruction")
    f_BF, norm_F = sae.encode(X_BD), torch.linalg.vector_norm(sae.W_dec, dim=1)
    once, twice = (SETTINGS["l1"] * (f_BF * norm_F**power).sum(1).mean() for power in (1, 2))
    agree(loss.penalties["l1"], once)
    agree_on_term(sae, twice, theirs, "l1")


@pytest.mark.parametrize(("index", "progress", "p"), [(2, 0.1, 1.0), (3, 0.3, 0.6), (4, 0.8, 0.2)])
def test_p_anneal(index, progress, p):
    params = {"p_end": 0.2, "anneal_start": 0.2, "anneal_updates": 2, "l1_coefficient": SETTINGS["l1"]}
    sae, theirs = ours("p_anneal", **params), case("dictionary_learning", f"p_anneal_{index}")
    assert sae.exponent_at(progress) == pytest.approx(p)
    assert theirs["p"] == pytest.approx(p)
    for earlier in (0.1, 0.3):  # the weight is adapted at every change of the exponent, on these same rows
        if earlier < progress:
            sae.loss(X_BD, earlier)
    agree_on_outputs(sae, theirs)
    for term, value in terms(sae.loss(X_BD, progress)).items():
        agree_on_term(sae, value, theirs, term, rel=SINGLE)


# -- gated -----------------------------------------------------------------------------------------------------------


def test_gated_is_that_of_dictionary_learning():
    sae, theirs = ours("gated", l1_coefficient=SETTINGS["l1"]), case("dictionary_learning", "gated")
    agree_on_outputs(sae, theirs)
    for term, value in terms(sae.loss(X_BD, 1.0)).items():
        agree_on_term(sae, value, theirs, term, without=("b_dec",) if term == "auxiliary" else ())
    # theirs stops the gradient of the decoder and lets that of the encoder's x - b_dec pass; ours stops both
    auxiliary = gradients(sae, sae.loss(X_BD, 1.0).penalties["auxiliary"])
    theirs_auxiliary = theirs["gradients"]["auxiliary"]
    assert not auxiliary["b_dec"].any()
    assert not auxiliary["W_dec"].any()
    assert not theirs_auxiliary["W_dec"].any()
    agree(theirs_auxiliary["b_dec"], -(sae.W_enc @ auxiliary["b_enc"]))


def test_gated_of_saelens_moves_the_decoder_by_the_auxiliary_loss():
    sae, theirs = ours("gated", l1_coefficient=SETTINGS["l1"]), case("saelens", "gated")
    agree_on_outputs(sae, theirs)
    loss = sae.loss(X_BD, 1.0)
    agree_on_term(sae, loss.reconstruction, theirs, "reconstruction")
    agree_on_term(sae, loss.penalties["l1"], theirs, "l1", unit_rows=True)  # weighted by decoder norms, here all 1
    agree_on_term(sae, loss.penalties["auxiliary"], theirs, "auxiliary", without=("W_dec", "b_dec"))
    # the paper stops these; theirs are those of an ordinary reconstruction from the gate
    gate_BF = sae.preactivations(X_BD).relu()
    slope_BD = 2 / len(X_BD) * (gate_BF @ sae.W_dec + sae.b_dec - X_BD)
    agree(theirs["gradients"]["auxiliary"]["W_dec"], gate_BF.T @ slope_BD)
    through_encoder_D = -(sae.W_enc @ theirs["gradients"]["auxiliary"]["b_enc"])
    agree(theirs["gradients"]["auxiliary"]["b_dec"], slope_BD.sum(0) + through_encoder_D)
    found = gradients(sae, loss.penalties["auxiliary"])
    assert not found["W_dec"].any()
    assert not found["b_dec"].any()


# -- TopK ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", DEAD)
def test_topk_is_that_of_dictionary_learning(dead):
    theirs = case("dictionary_learning", f"topk_{dead}")
    assert theirs["dead"]
    sae = ours("topk", k=SETTINGS["k"], aux_coefficient=SETTINGS["alpha"], dead=theirs["dead"])
    agree_on_outputs(sae, theirs)
    agree_on_term(sae, sae.loss(X_BD, 1.0).reconstruction, theirs, "reconstruction")
    agree_on_auxk(sae, theirs, factor=1.0, rel=SINGLE)


@pytest.mark.parametrize("name", ["many", "few", "rescaled"])
def test_topk_of_saelens(name):
    # "rescaled" selects by pre-activation times decoder norm and divides by it when decoding: the same at norm 1
    theirs, dead = case("saelens", f"topk_{name}"), DEAD.get(name, DEAD["many"])
    sae = ours("topk", k=SETTINGS["k"], aux_coefficient=SETTINGS["alpha"], dead=dead)
    agree_on_outputs(sae, theirs)
    rescaled = name == "rescaled"
    agree_on_term(sae, sae.loss(X_BD, 1.0).reconstruction, theirs, "reconstruction", unit_rows=rescaled)
    # theirs is not divided by the variance of the residual, has coefficient 1 and shrinks with fewer dead latents
    # than may be used
    factor = SETTINGS["alpha"] / (min(len(dead) / AUX_K, 1.0) * residual_variance(theirs))
    if not rescaled:
        agree_on_auxk(sae, theirs, factor=factor)
    auxk = sae.loss(X_BD, 1.0).penalties["auxk"]
    agree_on_term(sae, auxk, theirs, "auxk", factor=factor, unit_rows=rescaled, without=("b_dec",))


def test_topk_of_saelens_lets_dead_latents_contribute_negatively():
    # the paper rectifies them; theirs decodes raw pre-activations, where ours has 0
    theirs, dead = case("saelens", "topk_mixed"), DEAD["mixed"]
    sae = ours("topk", k=SETTINGS["k"], aux_coefficient=SETTINGS["alpha"], dead=dead)
    residual_BD = X_BD - theirs["reconstruction"]
    raw = (dead_estimate(sae, dead, rectify=False) - residual_BD).square().sum(1).mean()
    rectified = (dead_estimate(sae, dead, rectify=True) - residual_BD).square().sum(1).mean()
    agree(tensor(theirs["losses"]["auxk"]), raw)
    agree(sae.loss(X_BD, 1.0).penalties["auxk"], SETTINGS["alpha"] * rectified / residual_variance(theirs))
    assert abs(raw - rectified) > 0.1


@pytest.mark.parametrize("dead", DEAD)
def test_topk_of_sparsify(dead):
    theirs, members = case("sparsify", f"topk_{dead}"), DEAD[dead]
    sae = ours("topk", k=SETTINGS["k"], aux_coefficient=SETTINGS["alpha"], dead=members)
    agree_on_outputs(sae, theirs)
    # both terms are relative to the variance of the rows; ours to none, and to that of the residual
    variance = (X_BD - X_BD.mean(0)).square().sum(1).mean()
    agree_on_term(sae, sae.loss(X_BD, 1.0).reconstruction, theirs, "fvu", factor=variance)
    factor = SETTINGS["alpha"] * variance / (min(len(members) / AUX_K, 1.0) * residual_variance(theirs))
    auxk = sae.loss(X_BD, 1.0).penalties["auxk"]
    agree_on_term(sae, auxk, theirs, "auxk", factor=factor, without=("W_enc", "b_enc"))
    # its encoder drops the gradient of pre-activations that are not among the k largest, so the loss moves decoder rows
    # of dead latents and never wakes one
    found = gradients(sae, auxk)
    for name in ("W_enc", "b_enc"):
        assert not theirs["gradients"]["auxk"][name].any()
        latents = found[name].T if name == "W_enc" else found[name][:, None]
        assert latents[members].any(1).all()


# -- BatchTopK and Matryoshka ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["saelens", "dictionary_learning"])
def test_batch_topk(peer):
    theirs = case(peer, "batch_topk")
    dead = theirs.get("dead", DEAD["many"])
    sae = ours("batch_topk", k=SETTINGS["k"], aux_coefficient=SETTINGS["alpha"], dead=dead)
    f_BF = kept_in_batch(sae)
    agree(f_BF, theirs["code"])
    agree(sae.decode(f_BF), theirs["reconstruction"])
    agree_on_term(sae, sae.loss(X_BD, 1.0).reconstruction, theirs, "reconstruction")
    # SAELens' auxiliary loss is not divided by the variance of the residual and has coefficient 1
    factor = SETTINGS["alpha"] / residual_variance(theirs) if peer == "saelens" else 1.0
    agree_on_auxk(sae, theirs, factor=factor, rel=EXACT if peer == "saelens" else SINGLE)


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("saelens", "batch_topk"),  # exported as JumpReLU with a constant threshold
        ("dictionary_learning", "batch_topk"),
        ("dictionary_learning", "matryoshka"),
    ],
)
def test_inference_with_a_threshold(peer, name):
    theirs = PEERS[peer]["cases"][name]["inference"]
    sae = ours(name, k=SETTINGS["k"], **({"num_widths": 3} if name == "matryoshka" else {}))
    sae.threshold.fill_(SETTINGS["threshold"])
    agree(sae.encode(X_BD), tensor(theirs["code"]))


def test_batch_topk_smallest_kept_value():
    """All follow the smallest kept value of a batch, each with a mean of its own."""
    sae, smallest = ours("batch_topk", k=SETTINGS["k"]), []
    for rows_BD in (X_BD, VALUES["x_second"]):
        sae.loss(rows_BD, 1.0)
        smallest.append(sae._latest_smallest.item())
        sae.after_step()
    first, second = smallest
    assert first != second
    assert sae.smallest_kept.item() == pytest.approx((first + second) / 2)
    theirs = PEERS["saelens"]["cases"]["batch_topk"]
    rate = theirs["threshold_rate"]  # starts from 0, so that early thresholds are far too low
    assert theirs["thresholds"] == pytest.approx([rate * first, rate * (1 - rate) * first + rate * second])
    theirs = PEERS["dictionary_learning"]["cases"]["batch_topk"]
    beta = theirs["threshold_beta"]  # starts from the first batch
    assert theirs["thresholds"] == pytest.approx([first, beta * first + (1 - beta) * second])


def test_matryoshka_of_saelens_sums_over_prefixes():
    theirs = case("saelens", "matryoshka")
    sae = ours("matryoshka", k=SETTINGS["k"], num_widths=3, aux_coefficient=SETTINGS["alpha"], dead=DEAD["many"])
    assert list(sae.widths()) == SETTINGS["widths"]
    agree(kept_in_batch(sae), theirs["code"])
    loss = sae.loss(X_BD, 1.0)
    agree_on_term(sae, loss.reconstruction, theirs, "reconstruction")
    prefixes = ("inner_mse_loss_3", "inner_mse_loss_5", "reconstruction")
    summed = {
        "losses": {"all": sum(theirs["losses"][name] for name in prefixes)},
        "gradients": {
            "all": {
                parameter: sum(theirs["gradients"][name][parameter] for name in prefixes)
                for parameter in theirs["gradients"]["reconstruction"]
            }
        },
    }
    agree_on_term(sae, loss.reconstruction + loss.penalties["nested"], summed, "all", factor=1 / len(prefixes))
    agree_on_auxk(sae, theirs, factor=SETTINGS["alpha"] / residual_variance(theirs))


def test_matryoshka_of_dictionary_learning_divides_by_the_number_of_prefixes_twice():
    # each loss is weighted by 1 / G and the weighted ones are averaged again; the auxiliary loss is not divided, which
    # makes it G times heavier than its coefficient says
    theirs = case("dictionary_learning", "matryoshka")
    params = {"k": SETTINGS["k"], "num_widths": 3, "dead": theirs["dead"]}
    sae = ours("matryoshka", aux_coefficient=SETTINGS["alpha"], **params)
    agree(kept_in_batch(sae), theirs["code"])
    loss = sae.loss(X_BD, 1.0)
    nested = loss.reconstruction + loss.penalties["nested"]
    agree_on_term(sae, nested, theirs, "mean_of_prefixes", factor=3)
    agree_on_auxk(sae, theirs, factor=1.0, rel=SINGLE)


# -- JumpReLU --------------------------------------------------------------------------------------------------------


def jumprelu(mode, **params):
    return ours("jumprelu", mode=mode, bandwidth=SETTINGS["bandwidth"], **params)


def test_jumprelu_step():
    theirs = case("saelens", "jumprelu_step")
    sae = jumprelu("step", sparsity_coefficient=SETTINGS["step"])
    agree_on_outputs(sae, theirs)
    loss = sae.loss(X_BD, 1.0)
    for term in ("reconstruction", "sparsity"):
        agree_on_term(sae, terms(loss)[term], theirs, term, rel=SINGLE)


def test_jumprelu_tanh():
    theirs = case("saelens", "jumprelu_tanh")
    params = {"sparsity_coefficient": SETTINGS["tanh"], "tanh_scale": SETTINGS["tanh_scale"]}
    sae = jumprelu("tanh", preact_coefficient=SETTINGS["preact"], dead=DEAD["mixed"], **params)
    agree_on_outputs(sae, theirs)
    for term, value in terms(sae.loss(X_BD, 1.0)).items():
        # theirs weights both penalties by decoder norms, here all 1
        agree_on_term(sae, value, theirs, term, rel=SINGLE, unit_rows=term != "reconstruction")


def test_jumprelu_quadratic_of_saelens_punishes_the_spread_over_tokens_too():
    # theirs is (2 / L0*) mean over tokens of (L0 - L0*)², ours is d_in (mean L0 / L0* - 1)²: a token may deviate
    theirs, target = case("saelens", "jumprelu_quadratic"), SETTINGS["target_l0"]
    sae = jumprelu("target_l0", target_l0=target, target_coefficient=SETTINGS["target"])
    agree_on_outputs(sae, theirs)
    loss = sae.loss(X_BD, 1.0)
    agree_on_term(sae, loss.reconstruction, theirs, "reconstruction", rel=SINGLE)
    l0_B = (sae.encode(X_BD) > 0).double().sum(1)
    spread = SETTINGS["target"] * 2 / target * l0_B.var(correction=0)
    assert spread > 0.1
    theirs_value = tensor(theirs["losses"]["sparsity"])
    agree(loss.penalties["sparsity"] * 2 * target / D_IN, theirs_value - spread)
    # their gradient, by latent: the step's window, weighted by each token's own deviation instead of the mean one
    window_BF = (sae.preactivations(X_BD) - sae.threshold).abs() < SETTINGS["bandwidth"] / 2
    slope_BF = -window_BF.double() / SETTINGS["bandwidth"]
    weight = SETTINGS["target"] * 4 / target / len(X_BD)
    agree(weight * ((l0_B - target) @ slope_BF), theirs["gradients"]["sparsity"]["threshold"], SINGLE)
    mine = gradients(sae, loss.penalties["sparsity"])["threshold"] * 2 * target / D_IN
    agree(mine, weight * (l0_B.mean() - target) * slope_BF.sum(0))


def test_jumprelu_of_dictionary_learning_takes_the_step_of_the_code():
    # the step should see the pre-activation. On the code it misses what is below the threshold, and where the threshold
    # is under half the bandwidth it sees every silent latent
    theirs, target, width = case("dictionary_learning", "jumprelu"), SETTINGS["target_l0"], SETTINGS["bandwidth"]
    sae = jumprelu("target_l0", target_l0=target, target_coefficient=SETTINGS["target"] / D_IN)
    agree_on_outputs(sae, theirs)
    loss = sae.loss(X_BD, 1.0)
    agree_on_term(sae, loss.reconstruction, theirs, "reconstruction")
    agree_on_term(sae, loss.penalties["sparsity"], theirs, "sparsity", without=("threshold",))
    code_BF, pre_BF = sae.encode(X_BD), sae.preactivations(X_BD)
    excess = (code_BF > 0).double().sum() / len(X_BD) / target - 1
    weight = SETTINGS["target"] * 2 * excess / target / len(X_BD)
    of_code_F, of_pre_F = (
        -weight / width * ((seen_BF - sae.threshold).abs() < width / 2).sum(0) for seen_BF in (code_BF, pre_BF)
    )
    assert not torch.equal(of_code_F, of_pre_F)
    agree(of_code_F, theirs["gradients"]["sparsity"]["threshold"])
    agree(of_pre_F, gradients(sae, loss.penalties["sparsity"])["threshold"])


def test_jumprelu_of_dictionary_learning_has_half_the_gradient_of_l0():
    # one row as far above every threshold as the other is below it: both are in the window, theirs sees the one above
    theirs = case("dictionary_learning", "jumprelu_around")
    values = {name: tensor(numbers) for name, numbers in theirs["inputs"].items()}
    sae = jumprelu(
        "target_l0", values=values, target_l0=SETTINGS["target_l0"], target_coefficient=SETTINGS["target"] / D_IN
    )
    loss = sae.loss(values["x"], 1.0)
    agree_on_term(sae, loss.reconstruction, theirs, "reconstruction")
    agree_on_term(sae, loss.penalties["sparsity"], theirs, "sparsity", without=("threshold",))
    found = gradients(sae, loss.penalties["sparsity"])["threshold"]
    assert found.all()
    agree(found, 2 * theirs["gradients"]["sparsity"]["threshold"])
