"""The half of ``export_agreement.py`` that runs where SAELens is installed; nothing of this project is imported.

    .venv-peers/bin/python benchmarks/export_agreement_peer.py FOLDER

FOLDER holds ``model.json`` (sizes), ``model.safetensors``, ``tokens.safetensors`` and one folder per autoencoder in
``saes``. ``peer.json`` is written to it: what SAELens measures, and the versions.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
from sae_lens import SAE
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedTransformer, HookedTransformerConfig

if TYPE_CHECKING:
    import torch


class Tokens:
    """Hands out the sequences in order, as the activation store of SAELens does with a dataset."""

    def __init__(self, tokens_ST: torch.Tensor) -> None:
        self.tokens_ST, self.next = tokens_ST, 0
        self.context_size = tokens_ST.shape[1]

    def get_batch_tokens(self, count: int) -> torch.Tensor:
        """The next sequences."""
        start, self.next = self.next, self.next + count
        return self.tokens_ST[start : self.next]

    def reset_input_dataset(self) -> None:
        """From the beginning."""
        self.next = 0


def build_model(folder: Path) -> HookedTransformer:
    """The one-layer model, with the weights as they are."""
    sizes = json.loads((folder / "model.json").read_text())
    config = HookedTransformerConfig(
        n_layers=1,
        d_head=sizes["d_model"] // sizes["n_heads"],
        act_fn="gelu",
        normalization_type="LN",
        device="cpu",
        **{key: sizes[key] for key in ("d_model", "n_heads", "d_mlp", "n_ctx", "d_vocab", "eps")},
    )
    model = HookedTransformer(config)
    missing = model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=False)
    assert not missing.unexpected_keys, missing
    assert all(key.endswith(("mask", "IGNORE")) for key in missing.missing_keys), missing
    return model.eval()


def main(folder: Path) -> None:
    """Evaluate every autoencoder on every sequence."""
    model = build_model(folder)
    tokens_ST = safetensors.torch.load_file(folder / "tokens.safetensors")["tokens"].long()
    special = [int(token) for token in tokens_ST[:, 0].unique()]
    config = EvalConfig(
        batch_size_prompts=len(tokens_ST),
        n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1,
        compute_ce_loss=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_l2_norms=True,
    )
    found = {}
    for path in sorted((folder / "saes").iterdir()):
        metrics, _ = run_evals(
            SAE.load_from_disk(path),
            Tokens(tokens_ST),
            model,
            ActivationScaler(),
            config,
            exclude_special_tokens=special,
        )
        found[path.name] = {key: value for group in metrics.values() for key, value in group.items()}
    versions = {name: metadata.version(name) for name in ("sae-lens", "transformer-lens")}
    (folder / "peer.json").write_text(json.dumps({"metrics": found, "versions": versions}, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
