"""Checkpoints of the first published VSAE code (ZachData/SPAR): one ``.pt`` file of ``torch.save``; read only.

The file holds a dictionary with ``state_dict``, ``config``, ``layer`` and ``act_name``. Plain and variational
autoencoders have the same code, ``max((x - b_dec) W_enc + b_enc, 0)``: of a variational one its posterior mean. The
head of its variance is not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vsae_search.errors import UserInputError
from vsae_search.export.formats import Read
from vsae_search.export.formats._checks import require_shapes
from vsae_search.export.plain import PlainSae
from vsae_search.subjects.language_model.checkpoint import load_restricted

if TYPE_CHECKING:
    from pathlib import Path

_MLP_HOOKS = ("pre", "post")
_VARIATIONAL = "W_enc_var"


class Spar:
    """Reads the format."""

    name = "spar"

    def read(self, path: Path) -> Read:
        """Read a checkpoint, through torch's restricted reader.

        Raises:
            UserInputError: There is none, or it holds more than tensors, texts and numbers.
            CorruptFile: The file is damaged.
        """
        if not path.is_file():
            raise UserInputError(f"{path} is not a file", "give the .pt file of the checkpoint, not its folder")
        content = load_restricted(path)
        state = content.get("state_dict") if isinstance(content, dict) else None
        if (
            not isinstance(content, dict)
            or not isinstance(state, dict)
            or not isinstance(state.get("W_enc"), torch.Tensor)
        ):
            raise UserInputError(f"{path} is no checkpoint of SPAR: it has no state_dict with W_enc", "check --format")
        if state["W_enc"].ndim != 2:
            raise UserInputError(f"{path}: W_enc is not a matrix", "several autoencoders in one file cannot be read")
        d_in, d_sae = state["W_enc"].shape
        shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
        require_shapes(state, shapes, path)
        tensors = {name: state[name].to(torch.float64) for name in shapes}
        return Read(
            PlainSae(
                kind="relu",
                W_enc_DF=tensors["W_enc"],
                b_enc_F=tensors["b_enc"],
                W_dec_FD=tensors["W_dec"],
                b_dec_D=tensors["b_dec"],
                subtracts_b_dec=True,
            ),
            "VSAE" if _is_variational(content) else "SAE",
            model="gpt2" if "gpt2small" in path.name else None,
            hook=_hook(content),
        )


def _is_variational(content: dict[str, Any]) -> bool:
    config = content.get("config")
    return _VARIATIONAL in content["state_dict"] or (isinstance(config, dict) and "kl_coeff" in config)


def _hook(content: dict[str, Any]) -> str | None:
    """The hook as TransformerLens names it, where the two fields tell it."""
    layer, name = content.get("layer"), content.get("act_name")
    return f"blocks.{layer}.mlp.hook_{name}" if isinstance(layer, int) and name in _MLP_HOOKS else None


FORMAT = Spar()
