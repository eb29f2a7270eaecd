"""One-layer models: the built-in one and those of the GELU-1L family, which have the same architecture.

Shapes: S sequences, T positions, D width of the hook, R residual stream, N rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsae_search.subjects.language_model.base import Edit, State, unknown_hook
from vsae_search.subjects.tiny_gelu_1l.model import HOOK_NAMES, Point

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vsae_search.subjects.tiny_gelu_1l.model import OneLayerModel


class OneLayerCausalModel:
    """A one-layer model that stops and goes on exactly at the hook.

    Args:
        model: The model, on its device and in its number format.
    """

    def __init__(self, model: OneLayerModel) -> None:
        self._model = model.eval().requires_grad_(requires_grad=False)
        self.device: torch.device = model.unembed.W_U.device
        self.d_vocab = model.config.d_vocab
        self.n_ctx = model.config.n_ctx
        self.hook_names = HOOK_NAMES
        self._unembed = model.unembed.W_U.float(), model.unembed.b_U.float()  # float32 logits in every format

    def width(self, hook: str) -> int:
        """Return the width of the activation at a hook."""
        if hook not in HOOK_NAMES:
            raise unknown_hook(hook, HOOK_NAMES)
        return self._model.width(hook)

    def activations(self, tokens_ST: Tensor, hook: str) -> Tensor:
        """Run the model up to the hook."""
        return self._model.run_to(tokens_ST, hook).value_STW

    def start(self, tokens_ST: Tensor, hook: str) -> State:
        """Return the activation and what the residual stream carries past it."""
        point = self._model.run_to(tokens_ST, hook)
        return (point.value_STW,) if point.residual_STD is None else (point.value_STW, point.residual_STD)

    def finish(self, tokens_ST: Tensor, hook: str, state: State, edit: Edit) -> Tensor:
        """Go on from the hook to the final LayerNorm."""
        del tokens_ST
        point = Point(hook, edit(state[0]), state[1] if len(state) > 1 else None)
        final_STR: Tensor = self._model.ln_final(self._model.finish(point))
        return final_STR

    def full(self, tokens_ST: Tensor, hook: str, edit: Edit) -> Tensor:
        """Run the whole model."""
        return self.finish(tokens_ST, hook, self.start(tokens_ST, hook), edit)

    def logits(self, final_NR: Tensor) -> Tensor:
        """Return float32 logits."""
        weight_RV, bias_V = self._unembed
        return final_NR.float() @ weight_RV + bias_V

    def restart_of(self, hook: str) -> str:
        """Every hook can be gone on from."""
        return f"at {hook}"

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the weights by name."""
        return sorted(self._model.state_dict().items())
