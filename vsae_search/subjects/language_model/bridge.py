"""Models that TransformerLens runs: any causal model of the Hugging Face hub that it knows.

A forward pass stops at a hook by an exception that the hook raises. It starts again at a block by giving the blocks
before it stand-ins that return the residual stream at once; TransformerLens' own ``start_at_layer`` runs those blocks
and throws away what they compute. Whether a model can be started again in this way is not assumed: both ways are
compared on a few tokens when the model is loaded, and where they differ the whole model is run.

Shapes: S sequences, T positions, D width of the hook, R residual stream, N rows, V vocabulary.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from vsae_search.errors import UserInputError
from vsae_search.subjects.language_model.base import Edit, State, same, unknown_hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

_FINAL = "unembed.hook_in"
_ADDED_AT_THE_END = ("hook_mlp_out", "hook_resid_post")
"""Hooks whose value is part of the block's output as it is: output = what is there without it + the activation."""
_TOLERANCE = 1e-4
_PROBE = 8


class _Stop(Exception):
    """Raised inside a forward pass when everything that is wanted has been seen."""


class BridgeCausalModel:
    """A model behind a ``TransformerBridge``.

    Args:
        bridge: The bridge, on its device and in its number format.
    """

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge.eval()
        for parameter in bridge.parameters():
            parameter.requires_grad_(requires_grad=False)
        self.d_vocab = int(bridge.cfg.d_vocab)
        self.n_ctx = int(bridge.cfg.n_ctx)
        self.hook_names: tuple[str, ...] = tuple(sorted(bridge.hook_dict))
        self.device: torch.device = bridge.W_U.device
        self._widths: dict[str, int] = {}
        self._restarts: dict[str, str] = {}
        self._outputs: dict[int, bool] = {}
        self._weight_RV, self._bias_V = bridge.W_U.float(), bridge.b_U.float()  # float32 logits in every format
        self._softcap = max(0.0, float(getattr(bridge.cfg, "output_logits_soft_cap", None) or 0.0))  # -1 means none
        self._require_own_logits()

    def width(self, hook: str) -> int:
        """Return the width of the activation at a hook, found by running the model on a few tokens.

        Raises:
            UserInputError: There is no such hook, or it does not hold one vector for each position.
        """
        if hook not in self.hook_names:
            raise unknown_hook(hook, self.hook_names)
        if hook not in self._widths:
            shapes = {}
            for length in (_PROBE, _PROBE // 2 + 1):
                shapes[length] = tuple(self._capture(self._probe(length), hook).shape)
            first, second = shapes.values()
            if [shape[:2] for shape in (first, second)] != [(2, length) for length in shapes] or first[2:] != second[
                2:
            ]:
                raise UserInputError(
                    f"{hook} does not hold one vector for each position, but tensors of shape {list(first)}",
                    "Choose a hook of the residual stream or of what a layer reads or writes.",
                )
            self._widths[hook] = int(torch.Size(first[2:]).numel())
        return self._widths[hook]

    def activations(self, tokens_ST: Tensor, hook: str) -> Tensor:
        """Run the model up to the hook and no further."""
        return self._capture(tokens_ST, hook).flatten(2)

    def start(self, tokens_ST: Tensor, hook: str) -> State:
        """Return the residual stream from which the model is started again; nothing where it cannot be."""
        layer, place = _place(hook)
        match self._restart(hook):
            case "after":
                seen = self._run(tokens_ST, [hook, f"blocks.{layer}.hook_resid_post"])
                return seen[f"blocks.{layer}.hook_resid_post"], seen[hook]
            case "before":
                return (self._capture(tokens_ST, f"blocks.{layer}.hook_resid_pre"),)
        del place
        return ()

    def finish(self, tokens_ST: Tensor, hook: str, state: State, edit: Edit) -> Tensor:
        """Go on from the block of the hook, or from the next one, to the final LayerNorm."""
        layer, _ = _place(hook)
        match self._restart(hook):
            case "after":
                resid_STR, x_STR = state
                with self._stand_ins(layer, resid_STR + (edit(x_STR) - x_STR)):
                    return self._run(tokens_ST, [_FINAL])[_FINAL]
            case "before":
                with self._stand_ins(layer - 1, state[0]):
                    return self.full(tokens_ST, hook, edit)
        return self.full(tokens_ST, hook, edit)

    def full(self, tokens_ST: Tensor, hook: str, edit: Edit) -> Tensor:
        """Run the whole model."""
        return self._run(tokens_ST, [_FINAL], {hook: edit})[_FINAL]

    def logits(self, final_NR: Tensor) -> Tensor:
        """Return float32 logits."""
        logits_NV = final_NR.float() @ self._weight_RV + self._bias_V
        return self._softcap * torch.tanh(logits_NV / self._softcap) if self._softcap else logits_NV

    def restart_of(self, hook: str) -> str:
        """Return from where the model is started again, in words."""
        layer, _ = _place(hook)
        words = {"after": f"after block {layer}", "before": f"at block {layer}", "": "at the tokens"}
        return words[self._restart(hook)]

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the weights by name."""
        return sorted(self._bridge.original_model.state_dict().items())

    def _restart(self, hook: str) -> str:
        """Return how the model is started again for a hook, checking on first use that it gives the same."""
        if hook not in self._restarts:
            layer, place = _place(hook)
            candidates = [*(["after"] if place in _ADDED_AT_THE_END else []), *(["before"] if layer > 0 else []), ""]
            if layer < 0:
                candidates = [""]
            tokens_ST = self._probe(_PROBE)
            expected: dict[Edit, Tensor] = {edit: self.full(tokens_ST, hook, edit) for edit in (same, _halve)}
            for way in candidates:
                self._restarts[hook] = way
                if not way or self._agrees(tokens_ST, hook, expected):
                    break
        return self._restarts[hook]

    def _agrees(self, tokens_ST: Tensor, hook: str, expected: dict[Edit, Tensor]) -> bool:
        """Return whether starting again gives what the whole model gives."""
        layer, _ = _place(hook)
        if not self._returns_tensors(tokens_ST, layer):
            return False
        state = self.start(tokens_ST, hook)
        coarse = 1.0 if expected[same].dtype == torch.float32 else 200.0  # of bf16 only about three digits agree
        for edit, whole in expected.items():
            found = self.finish(tokens_ST, hook, state, edit)
            bound = _TOLERANCE * coarse * float(whole.abs().max())
            if found.shape != whole.shape or not bool((found - whole).abs().max() <= bound):
                return False
        return True

    def _returns_tensors(self, tokens_ST: Tensor, layer: int) -> bool:
        """Find out what blocks return, and whether a stand-in can return it."""
        kinds: dict[int, Any] = {}
        with ExitStack() as stack:
            for index in range(layer + 1):

                def look(_module: Any, _inputs: Any, output: Any, index: int = index) -> None:
                    kinds[index] = output

                stack.callback(self._bridge.blocks[index].register_forward_hook(look).remove)
            self._run(tokens_ST, [_FINAL])
        for index, output in kinds.items():
            if isinstance(output, tuple) and any(part is not None for part in output[1:]):
                return False
            self._outputs[index] = isinstance(output, tuple)
        return len(kinds) == layer + 1

    @contextmanager
    def _stand_ins(self, last: int, resid_STR: Tensor) -> Iterator[None]:
        """Let the blocks up to ``last`` return the residual stream at once."""
        blocks = [self._bridge.blocks[index] for index in range(last + 1)]
        try:
            for index, block in enumerate(blocks):
                value: Any = (resid_STR,) if self._outputs[index] else resid_STR
                block.__dict__["forward"] = lambda *_args, value=value, **_kwargs: value
            yield
        finally:
            for block in blocks:
                block.__dict__.pop("forward", None)

    def _capture(self, tokens_ST: Tensor, hook: str) -> Tensor:
        """Run the model up to a hook and return what is there, in its own shape."""
        return self._run(tokens_ST, [hook])[hook]

    def _run(self, tokens_ST: Tensor, wanted: Sequence[str], edits: dict[str, Edit] | None = None) -> dict[str, Tensor]:
        """Run the model until every wanted hook has been seen."""
        seen: dict[str, Tensor] = {}
        wanted = tuple(dict.fromkeys(wanted))

        def look(value: Tensor, hook: Any, name: str) -> None:
            del hook
            seen[name] = value
            if len(seen) == len(wanted):
                raise _Stop

        def change(value: Tensor, hook: Any, edit: Edit) -> Tensor:
            del hook
            return edit(value.flatten(2)).reshape(value.shape)

        hooks = [(name, _bind(change, edit=edit)) for name, edit in (edits or {}).items()]
        hooks += [(name, _bind(look, name=name)) for name in wanted]
        try:
            with torch.no_grad(), self._bridge.hooks(fwd_hooks=hooks):
                self._bridge(tokens_ST, return_type=None, use_cache=False)
        except _Stop:
            return seen
        missing = ", ".join(name for name in wanted if name not in seen)
        raise UserInputError(
            f"the model never reaches {missing}", "Choose another hook: this one exists, but is not on the way."
        )

    def _probe(self, length: int) -> Tensor:
        """Return two short sequences of different tokens."""
        return torch.arange(2 * length, device=self.device).reshape(2, length) % self.d_vocab

    def _require_own_logits(self) -> None:
        """Refuse a model whose logits are more than a matrix product, a bias and a cap."""
        tokens_ST = self._probe(_PROBE)
        with torch.no_grad():
            whole = self._bridge(tokens_ST, return_type="logits", use_cache=False).float()
        found = self.logits(self._capture(tokens_ST, _FINAL))
        coarse = 1.0 if self._bridge.W_U.dtype == torch.float32 else 200.0
        difference = float((whole - found).abs().max())
        if not difference <= _TOLERANCE * coarse * max(1.0, float(whole.abs().max())):
            raise UserInputError(
                f"the logits of this model are not those of its unembedding alone (they differ by {difference:g})",
                "This architecture is not supported; its losses would be wrong.",
            )


def _place(hook: str) -> tuple[int, str]:
    """Split ``blocks.<layer>.<place>``; the layer is -1 for a hook outside the blocks."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    return (int(match[1]), match[2]) if match else (-1, hook)


def _halve(x_STD: Tensor) -> Tensor:
    """An edit that a model must notice."""
    return x_STD * 0.5


def _bind(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """Fix keyword arguments; TransformerLens calls a hook with (value, hook=...)."""
    return lambda value, hook: function(value, hook, **fixed)
