"""Writes tests/peers/fixtures/exports: autoencoders saved by other libraries, and what these compute with them.

Run where those libraries are installed; nothing of this project is imported:

    .venv-peers/bin/python tests/peers/make_export_fixtures.py

One folder per case, written by the library's own saving code, with the weights and rows of ``fixture_parts.py``.
``answers.json`` holds code and reconstruction of every case, in float32, from the library's own loader.
"""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import torch
from fixture_parts import D_IN, D_SAE, THRESHOLD, WIDTHS, K, free_decoder, inputs, render, set_
from run_exported import load

FOLDER = Path(__file__).resolve().parent / "fixtures" / "exports"
METADATA = {"model_name": "tiny_gelu_1l", "hook_name": "blocks.0.hook_mlp_out", "dataset_path": "python_stdlib"}


def saelens(values):
    """Inference classes of SAELens, saved with ``save_model``; BatchTopK is saved as it is after training."""
    from sae_lens import SAE
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    common = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu", "metadata": METADATA}
    free = {**values, "W_dec": free_decoder(values)}
    plain = ("W_enc", "b_enc", "W_dec", "b_dec")
    gated = ("W_enc", "W_dec", "b_dec", "r_mag", "b_mag")
    topk = {"architecture": "topk", "k": K}
    cases = {
        "standard": ({"architecture": "standard", "apply_b_dec_to_input": True}, values, plain),
        "standard_free": ({"architecture": "standard", "apply_b_dec_to_input": False}, free, plain),
        "topk": ({**topk, "rescale_acts_by_decoder_norm": False}, values, plain),
        "topk_rescaled": ({**topk, "rescale_acts_by_decoder_norm": True}, free, plain),
        "jumprelu": ({"architecture": "jumprelu", "apply_b_dec_to_input": False}, free, (*plain, "threshold")),
        "gated": ({"architecture": "gated"}, values, gated),
    }
    for name, (config, given, names) in cases.items():
        sae = SAE.from_dict({**common, **config})
        parameters = {key: getattr(sae, key) for key in names}
        if name == "gated":
            parameters |= {"b_enc": sae.b_gate}
        set_(parameters, given)
        sae.save_model(FOLDER / f"saelens_{name}")
    config = BatchTopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, dtype="float32", device="cpu", k=K, rescale_acts_by_decoder_norm=False
    )
    trained = BatchTopKTrainingSAE(config)
    set_({key: getattr(trained, key) for key in plain}, values)
    trained.topk_threshold.fill_(THRESHOLD)
    trained.save_inference_model(FOLDER / "saelens_batch_topk")


def dictionary_learning(values):
    """State dicts of the classes of dictionary_learning, with the part of the configuration that its loader reads."""
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    free = {**values, "W_dec": free_decoder(values)}
    groups = [end - start for start, end in zip([0, *WIDTHS], WIDTHS, strict=False)]
    cases = {
        "standard": (AutoEncoder(D_IN, D_SAE), values),
        "april": (AutoEncoderNew(D_IN, D_SAE), free),
        "gated": (GatedAutoEncoder(D_IN, D_SAE), values),
        "topk": (AutoEncoderTopK(D_IN, D_SAE, K), values),
        "batch_topk": (BatchTopKSAE(D_IN, D_SAE, K), values),
        "matryoshka": (MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, groups), values),
        "jumprelu": (JumpReluAutoEncoder(D_IN, D_SAE), free),
    }
    ours = {
        **{"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "decoder.bias": "b_dec"},
        **{"bias": "b_dec", "decoder_bias": "b_dec", "gate_bias": "b_enc", "mag_bias": "b_mag"},
    }
    for name, (ae, given) in cases.items():
        set_({ours.get(key, key): tensor for key, tensor in ae.named_parameters()}, given)
        if name in ("batch_topk", "matryoshka"):
            ae.threshold.fill_(THRESHOLD)
        folder = FOLDER / f"dictionary_learning_{name}"
        folder.mkdir(parents=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": type(ae).__name__,
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "layer": 0,
            "lm_name": "tiny_gelu_1l",
            "submodule_name": "mlp_out_layer_0",
        }
        if hasattr(ae, "k"):
            trainer["k"] = int(ae.k)
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}, indent=2) + "\n")


@torch.no_grad()
def main():
    """Write everything anew."""
    sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)
    shutil.rmtree(FOLDER, ignore_errors=True)
    values = inputs()
    saelens(values)
    dictionary_learning(values)
    x = values["x"].float()
    answers = {"x": x.tolist()}
    for folder in sorted(path for path in FOLDER.iterdir() if path.is_dir()):
        loaded = load(folder)
        code = loaded.encode(x.clone())
        answers[folder.name] = {"code": code.tolist(), "reconstruction": loaded.decode(code).tolist()}
    (FOLDER / "answers.json").write_text(render(answers) + "\n")


if __name__ == "__main__":
    main()
