"""Autoencoders to export: every architecture, and the variants whose code is of another kind."""

from __future__ import annotations

import torch

from vsae_search import saes
from vsae_search.export.facts import Facts

D_IN, D_SAE, SCALE = 12, 24, 2.5
BASE = {"d_in": D_IN, "d_sae": D_SAE}
CASES = {
    **{name: (name, {}) for name in ("april", "gated", "jumprelu", "p_anneal", "relu", "vsae_iso", "vsae_laplace")},
    **{
        name: (name, {"k": 3}) for name in ("topk", "batch_topk", "topk_ridge", "vsae_topk", "pca", "random_dictionary")
    },
    "matryoshka": ("matryoshka", {"k": 3, "num_widths": 3}),
    "vsae_multi": ("vsae_multi", {}),
    "vsae_rectified": ("vsae_rectified", {"prior_l0": 3}),
    "vsae_spike_slab": ("vsae_spike_slab", {"prior_l0": 3}),
    "vsae_mix": ("vsae_mix", {"prior_l0": 3}),
    "vsae_iso_thresholded": ("vsae_iso", {"target_l0": 3}),
    "vsae_multi_thresholded": ("vsae_multi", {"target_l0": 3}),
    "vsae_laplace_thresholded": ("vsae_laplace", {"target_l0": 3}),
    "vsae_spike_slab_untied": ("vsae_spike_slab", {"prior_l0": 3, "tied_gate": False}),
    "vsae_mix_untied": ("vsae_mix", {"prior_l0": 3, "tied_gate": False}),
    "vsae_mix_legacy": ("vsae_mix", {"prior_l0": 3, "legacy_seed": True}),
}
"""Name to architecture and hyper-parameters."""
CLASSES = {  # SAELens, dictionary_learning
    **dict.fromkeys(("relu", "p_anneal", "vsae_iso", "vsae_multi", "vsae_laplace"), ("standard", "AutoEncoder")),
    **dict.fromkeys(("vsae_rectified", "vsae_mix_legacy"), ("standard", "AutoEncoder")),
    "april": ("standard", "AutoEncoderNew"),
    "gated": ("gated", "GatedAutoEncoder"),
    "jumprelu": ("jumprelu", "JumpReluAutoEncoder"),
    **dict.fromkeys(("topk", "topk_ridge", "vsae_topk", "pca", "random_dictionary"), ("topk", "AutoEncoderTopK")),
    "batch_topk": ("jumprelu", "BatchTopKSAE"),
    "matryoshka": ("jumprelu", "MatryoshkaBatchTopKSAE"),
    **dict.fromkeys(("vsae_spike_slab", "vsae_mix"), ("jumprelu", "JumpReluAutoEncoder")),
    **dict.fromkeys(("vsae_iso_thresholded", "vsae_multi_thresholded"), ("jumprelu", "JumpReluAutoEncoder")),
    "vsae_laplace_thresholded": ("jumprelu", "JumpReluAutoEncoder"),
    **dict.fromkeys(("vsae_spike_slab_untied", "vsae_mix_untied"), ("untied_gate", "UntiedGateAutoEncoder")),
}
"""Name to the class in each format."""


def make(name):
    """An autoencoder with random weights in every parameter, calibrated on rows of norm sqrt(D_IN)."""
    architecture, params = CASES[name]
    sae = saes.create(architecture, seed=3, **BASE, **params)
    generator = torch.Generator().manual_seed(7)
    sae.initialise(scaled_rows(256))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        if not sae.trained_by_gradient:
            sae.observe(scaled_rows(512))
            sae.solve()
        sae.after_step()
    sae.calibrate(scaled_rows(2048))
    return sae.eval()


def scaled_rows(count, seed=0):
    """Rows as autoencoders are trained on: E||x||^2 = D_IN, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    return 0.8 * torch.randn(count, D_IN, generator=generator) + 0.6


def facts(**changes):
    """Where the autoencoder is said to come from."""
    fields = {
        "sweep": "a_sweep",
        "uid": "topk-0003",
        "architecture": "topk",
        "params": {"k": 3, "lr": 1e-3},
        "seed": 5,
        "scale": SCALE,
        "batch_size": 64,
        "training_tokens": 6400,
        "metrics": {"l0": 3.0, "delta_ce": 0.25},
        "subject": {
            "kind": "language_model",
            "model": "tiny_gelu_1l",
            "hook": "blocks.0.hook_mlp_out",
            "context_length": 128,
            "processing": "none",
            "text": {"source": "python_stdlib"},
        },
    }
    return Facts(**{**fields, **changes})


def write(folder, written):
    """Put the files of an autoencoder into a folder."""
    folder.mkdir(parents=True)
    for name, content in written.files.items():
        (folder / name).write_bytes(content)
    return folder
