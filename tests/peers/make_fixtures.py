"""Writes tests/peers/fixtures: what other libraries compute for one small set of weights and rows.

Run where those libraries are installed; nothing of this project is imported:

    benchmarks/setup_peers.sh
    .venv-peers/bin/python tests/peers/make_fixtures.py

Every number comes from a class of the library itself, in float64 wherever the library lets it. A case holds the code,
the reconstruction, every term of the loss (with its coefficient) and the gradient of every term, in the names and
orientation that the tests use: W_enc [D, F], W_dec [F, D]. Libraries whose loss is one number are asked for it with
different coefficients, and terms are differences. The same versions always write the same files.
"""

from __future__ import annotations

import sys
import tempfile
import types
from importlib import metadata
from pathlib import Path

import torch
from fixture_parts import (
    ALPHA,
    BANDWIDTH,
    BATCH,
    D_IN,
    D_SAE,
    DEAD,
    L1,
    LONG_AGO,
    PREACT,
    STEP,
    TANH,
    TANH_SCALE,
    TARGET,
    TARGET_L0,
    THRESHOLD,
    WIDTHS,
    K,
    dead_mask,
    free_decoder,
    inputs,
    record,
    render,
    set_,
    sum_mse,
)

FIXTURES = Path(__file__).resolve().parent / "fixtures"


# -- SAELens ---------------------------------------------------------------------------------------------------------


def saelens_build(kind, config, values, *, weights=("W_enc", "b_enc", "W_dec", "b_dec"), free=False, **params):
    """An autoencoder of SAELens with the weights of ``values``, and its parameters."""
    sae = kind(config(d_in=D_IN, d_sae=D_SAE, dtype="float64", device="cpu", **params))
    parameters = {"b_enc" if name == "b_gate" else name: getattr(sae, name) for name in weights}
    set_(parameters, {**values, "W_dec": free_decoder(values)} if free else values)
    return sae, parameters


def saelens_case(built, x, coefficients, names, dead=None):
    """Training forward pass of SAELens; ``names`` says what we call the terms of its loss."""
    from sae_lens.saes.sae import TrainStepInput

    sae, parameters = built
    mask = None if dead is None else dead_mask(dead)
    out = sae.training_forward_pass(TrainStepInput(x, coefficients, mask, 0, is_logging_step=False))
    terms = {names.get(name, name): value for name, value in out.losses.items()}
    terms = {name: value for name, value in terms.items() if value.requires_grad}
    assert torch.isclose(sum(terms.values()), out.loss)
    return record(out.feature_acts, out.sae_out, terms, parameters)


def saelens_simple(values):
    """Standard and gated autoencoders."""
    from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig

    x, standard = values["x"], (StandardTrainingSAE, StandardTrainingSAEConfig, values)
    names = {"mse_loss": "reconstruction", "l1_loss": "l1", "auxiliary_reconstruction_loss": "auxiliary"}
    gated = saelens_build(
        GatedTrainingSAE,
        GatedTrainingSAEConfig,
        values,
        weights=("W_enc", "b_gate", "W_dec", "b_dec", "r_mag", "b_mag"),
    )
    free = saelens_build(*standard, free=True, apply_b_dec_to_input=False)
    return {
        "standard": saelens_case(saelens_build(*standard), x, {"l1": L1}, names),
        "standard_april": saelens_case(free, x, {"l1": L1}, names),
        "gated": saelens_case(gated, x, {"l1": L1}, names),
    }


def saelens_jumprelu(values):
    """The three penalties of JumpReLU."""
    from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

    cases = {}
    names = {"mse_loss": "reconstruction", "l0_loss": "sparsity", "pre_act_loss": "preact"}
    modes = {
        "step": (STEP, {}),
        "tanh": (TANH, {"jumprelu_tanh_scale": TANH_SCALE, "jumprelu_ste_to_input": True}),
        "quadratic": (TARGET, {"target_l0": TARGET_L0}),
    }
    for mode, (coefficient, params) in modes.items():
        built = saelens_build(
            JumpReLUTrainingSAE,
            JumpReLUTrainingSAEConfig,
            values,
            weights=("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
            apply_b_dec_to_input=False,
            jumprelu_sparsity_loss_mode=mode,
            jumprelu_bandwidth=BANDWIDTH,
            pre_act_loss_coefficient=PREACT if mode == "tanh" else None,
            **params,
        )
        dead = "mixed" if mode == "tanh" else None
        cases[f"jumprelu_{mode}"] = saelens_case(built, values["x"], {"l0": coefficient}, names, dead)
    return cases


def saelens_topk(values):
    """TopK with the auxiliary loss; with and without the rescaling by decoder norms."""
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    names = {"mse_loss": "reconstruction", "auxiliary_reconstruction_loss": "auxk"}
    cases = {}
    for dead in DEAD:
        built = saelens_build(TopKTrainingSAE, TopKTrainingSAEConfig, values, k=K, rescale_acts_by_decoder_norm=False)
        cases[f"topk_{dead}"] = saelens_case(built, values["x"], {}, names, dead)
    built = saelens_build(TopKTrainingSAE, TopKTrainingSAEConfig, values, k=K)
    cases["topk_rescaled"] = saelens_case(built, values["x"], {}, names, "many")
    return cases


def saelens_batch_topk(values):
    """BatchTopK and Matryoshka: training loss, threshold after one and two batches, inference with a threshold."""
    from sae_lens import SAE
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.matryoshka_batchtopk_sae import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )

    names = {"mse_loss": "reconstruction", "auxiliary_reconstruction_loss": "auxk"}
    params = {"k": K, "rescale_acts_by_decoder_norm": False}
    built = saelens_build(BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, values, **params)
    batch = saelens_case(built, values["x"], {}, names, "many")
    batch["threshold_rate"] = built[0].cfg.topk_threshold_lr
    batch["thresholds"] = [built[0].topk_threshold.item()]
    saelens_case(built, values["x_second"], {}, names, "many")
    batch["thresholds"].append(built[0].topk_threshold.item())
    built[0].topk_threshold.fill_(THRESHOLD)
    with tempfile.TemporaryDirectory() as folder:
        built[0].save_inference_model(folder)
        exported = SAE.load_from_disk(folder, device="cpu", dtype="float64")
    batch["inference"] = {"architecture": exported.cfg.architecture(), "code": exported.encode(values["x"]).tolist()}
    built = saelens_build(
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        values,
        matryoshka_widths=list(WIDTHS),
        **params,
    )
    return {"batch_topk": batch, "matryoshka": saelens_case(built, values["x"], {}, names, "many")}


# -- dictionary_learning ---------------------------------------------------------------------------------------------


def dictionary_build(kind, values, *, free=False, **params):
    """A trainer of dictionary_learning whose autoencoder has the weights of ``values``, and its parameters."""
    common = {"activation_dim": D_IN, "dict_size": D_SAE, "layer": 0, "lm_name": "none", "device": "cpu"}
    trainer = kind(steps=10_000, **common, **params)
    trainer.ae.double()
    ours = {
        **{"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "decoder.bias": "b_dec"},
        **{"bias": "b_dec", "decoder_bias": "b_dec", "gate_bias": "b_enc", "mag_bias": "b_mag"},
    }
    parameters = {ours.get(name, name): tensor for name, tensor in trainer.ae.named_parameters()}
    set_(parameters, {**values, "W_dec": free_decoder(values)} if free else values)
    return trainer, parameters


def dictionary_terms(trainer, x, coefficient, step=0):
    """Loss without a penalty, and what its coefficient adds; the name of the coefficient is an attribute."""
    weight = getattr(trainer, coefficient)
    full = trainer.loss(x, step=step)
    setattr(trainer, coefficient, 0.0)
    bare = trainer.loss(x, step=step)
    setattr(trainer, coefficient, weight)
    return bare, full - bare


def dictionary_simple(values):
    """Standard, April and gated trainers."""
    from dictionary_learning.dictionary import AutoEncoderNew
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate

    x, params, cases = values["x"], {"l1_penalty": L1, "sparsity_warmup_steps": None}, {}
    kinds = {
        "standard": (StandardTrainer, {}),
        "april_new": (StandardTrainerAprilUpdate, {"free": True, "dict_class": AutoEncoderNew}),
        "april_default": (StandardTrainerAprilUpdate, {"free": True}),
        "gated": (GatedSAETrainer, {}),
    }
    for name, (kind, more) in kinds.items():
        # without a decoder bias the default autoencoder of the April trainer is that of the April update
        used = {**values, "b_dec": torch.zeros_like(values["b_dec"])} if name == "april_default" else values
        trainer, parameters = dictionary_build(kind, used, **params, **more)
        code = trainer.ae.encode(x)
        reconstruction = trainer.ae.decode(code)
        bare, l1 = dictionary_terms(trainer, x, "l1_penalty")
        terms = {"reconstruction": sum_mse(reconstruction, x), "l1": l1}
        if name == "gated":
            terms["auxiliary"] = bare - terms["reconstruction"]
        cases[name] = record(code, reconstruction, terms, parameters)
    return cases


def dictionary_p_anneal(values):
    """The penalty at exponents 1, 0.6 and 0.2, its weight adapted at each change, always on the same rows."""
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer

    trainer, parameters = dictionary_build(
        PAnnealTrainer,
        values,
        sparsity_function="Lp^p",
        initial_sparsity_penalty=L1,
        sparsity_warmup_steps=None,
        anneal_start=1,
        anneal_end=3,
        n_sparsity_updates=3,
        p_end=0.2,
        sparsity_queue_length=1,
    )
    x, cases = values["x"], {}
    code = trainer.ae.encode(x)
    reconstruction = trainer.ae.decode(code)
    for step in range(5):  # an exponent set at a step is in force from the next on
        p, mse = trainer.p, sum_mse(reconstruction, x)
        terms = {"reconstruction": mse, "lp": trainer.loss(x, step=step) - mse}
        cases[f"p_anneal_{step}"] = record(code, reconstruction, terms, parameters, p=p)
    return {name: cases[name] for name in ("p_anneal_2", "p_anneal_3", "p_anneal_4")}


def dictionary_topk(values):
    """TopK with the auxiliary loss, its latents dead for long."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    x, cases = values["x"], {}
    for dead in DEAD:
        trainer, parameters = dictionary_build(TopKTrainer, values, k=K, auxk_alpha=ALPHA)
        trainer.num_tokens_since_fired[DEAD[dead]] = LONG_AGO
        code = trainer.ae.encode(x)
        bare, auxk = dictionary_terms(trainer, x, "auxk_alpha")
        terms = {"reconstruction": bare, "auxk": auxk}
        # a latent that fires is no longer dead, before the auxiliary loss is taken
        left = (trainer.num_tokens_since_fired >= trainer.dead_feature_threshold).nonzero().flatten().tolist()
        cases[f"topk_{dead}"] = record(code, trainer.ae.decode(code), terms, parameters, dead=left)
    return cases


def dictionary_batch_topk(values):
    """BatchTopK and Matryoshka: training loss, threshold after one and two batches, inference with a threshold."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer

    x, cases = values["x"], {}
    widths = [0, *WIDTHS]
    groups = {"group_fractions": [(end - start) / D_SAE for start, end in zip(widths, WIDTHS, strict=False)]}
    for name, kind, params in (
        ("batch_topk", BatchTopKTrainer, {}),
        ("matryoshka", MatryoshkaBatchTopKTrainer, groups),
    ):
        trainer, parameters = dictionary_build(kind, values, k=K, auxk_alpha=ALPHA, threshold_start_step=0, **params)
        trainer.num_tokens_since_fired[DEAD["many"]] = LONG_AGO
        code = trainer.ae.encode(x, use_threshold=False)
        bare, auxk = dictionary_terms(trainer, x, "auxk_alpha")
        left = (trainer.num_tokens_since_fired >= trainer.dead_feature_threshold).nonzero().flatten().tolist()
        extra = {"dead": left, "threshold_beta": trainer.threshold_beta, "thresholds": []}
        for rows in (x, values["x_second"]):
            trainer.loss(rows, step=1)
            extra["thresholds"].append(trainer.ae.threshold.item())
        trainer.ae.threshold = torch.tensor(THRESHOLD)
        extra["inference"] = {"code": trainer.ae.encode(x).tolist()}
        terms = {"reconstruction" if name == "batch_topk" else "mean_of_prefixes": bare, "auxk": auxk}
        cases[name] = record(code, trainer.ae.decode(code), terms, parameters, **extra)
    assert trainer.group_sizes == [3, 2, 5]
    return cases


def dictionary_jumprelu(values):
    """JumpReLU with a target L0, and the same on two rows as far above as below the threshold."""
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer

    params = {"bandwidth": BANDWIDTH, "sparsity_penalty": TARGET, "target_l0": TARGET_L0, "sparsity_warmup_steps": None}
    around = {name: torch.zeros_like(value) for name, value in values.items()}
    around["threshold"] = torch.full((D_SAE,), THRESHOLD, dtype=torch.float64)
    around["b_enc"] = torch.full((D_SAE,), THRESHOLD, dtype=torch.float64)
    around["W_enc"][0], around["W_dec"][:, 1] = 0.125, 1.0
    around["x"] = torch.zeros(2, D_IN, dtype=torch.float64)
    around["x"][:, 0] = torch.tensor([1.0, -1.0])
    cases = {}
    for name, used in (("jumprelu", values), ("jumprelu_around", around)):
        trainer, parameters = dictionary_build(JumpReluTrainer, used, **params)
        code = trainer.ae.encode(used["x"])
        bare, sparsity = dictionary_terms(trainer, used["x"], "sparsity_coefficient")
        terms = {"reconstruction": bare, "sparsity": sparsity}
        extra = {"inputs": {key: around[key].tolist() for key in ("x", *parameters)}} if used is around else {}
        cases[name] = record(code, trainer.ae.decode(code), terms, parameters, **extra)
    return cases


# -- sparsify --------------------------------------------------------------------------------------------------------


def sparsify_topk(values):
    """TopK; the loss is the unexplained fraction of variance, the auxiliary loss is relative to the same variance."""
    from sparsify import SparseCoder, SparseCoderConfig

    cases = {}
    for dead in DEAD:
        sae = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K), dtype=torch.float64)
        parameters = {
            "W_enc.T": sae.encoder.weight,
            "b_enc": sae.encoder.bias,
            "W_dec": sae.W_dec,
            "b_dec": sae.b_dec,
        }
        set_(parameters, values)
        out = sae(values["x"], dead_mask=dead_mask(dead))
        code = torch.zeros(BATCH, D_SAE, dtype=torch.float64).scatter(1, out.latent_indices, out.latent_acts)
        cases[f"topk_{dead}"] = record(code, out.sae_out, {"fvu": out.fvu, "auxk": out.auxk_loss}, parameters)
    return cases


# -- files -----------------------------------------------------------------------------------------------------------


def write(name, package, cases):
    """One fixture file: the version of the package and its cases."""
    packages = [package, "torch"] if package else ["torch"]
    versions = {item: metadata.version(item).partition("+")[0] for item in packages}
    (FIXTURES / f"{name}.json").write_text(render({"versions": versions, **cases}) + "\n", encoding="utf-8")


def main():
    """Write all files."""
    # dictionary_learning imports this for collecting activations, which is not asked for here
    sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)
    values = inputs()
    FIXTURES.mkdir(exist_ok=True)
    settings = {
        **{"l1": L1, "tanh": TANH, "step": STEP, "target": TARGET, "preact": PREACT, "k": K, "alpha": ALPHA},
        **{"target_l0": TARGET_L0, "bandwidth": BANDWIDTH, "tanh_scale": TANH_SCALE, "threshold": THRESHOLD},
        **{"widths": WIDTHS, "dead": DEAD},
    }
    write("inputs", None, {"settings": settings, "values": {name: value.tolist() for name, value in values.items()}})
    saelens = [saelens_simple, saelens_jumprelu, saelens_topk, saelens_batch_topk]
    dictionary = [dictionary_simple, dictionary_p_anneal, dictionary_topk, dictionary_batch_topk, dictionary_jumprelu]
    for name, package, makers in (
        ("saelens", "sae-lens", saelens),
        ("dictionary_learning", "dictionary-learning", dictionary),
        ("sparsify", "eai-sparsify", [sparsify_topk]),
    ):
        cases = {case: content for make in makers for case, content in make(values).items()}
        write(name, package, {"cases": cases})


if __name__ == "__main__":
    main()
