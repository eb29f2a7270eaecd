"""What a subject needs of a language model, whichever library runs it.

Shapes: S sequences, T positions, D width of the hook (heads and their dimensions are flattened into it), R width of
whatever the model wants back, N rows, V vocabulary.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol, TypeAlias

from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

Edit: TypeAlias = "Callable[[Tensor], Tensor]"
"""Takes the activation [S, T, D] at a hook and returns what replaces it, of the same shape, type and device."""

State: TypeAlias = "tuple[Tensor, ...]"
"""What a forward pass needs to go on from a hook; the first dimension of every tensor is that of the sequences."""

_NEAR_NAMES = 5


class CausalModel(Protocol):
    """A causal language model that can stop at a hook and go on from there. It is in inference mode throughout."""

    @property
    def d_vocab(self) -> int:
        """Number of tokens that it predicts."""
        ...

    @property
    def n_ctx(self) -> int:
        """Longest sequence that it reads."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Points at which an activation can be read and replaced, by TransformerLens name."""
        ...

    def width(self, hook: str) -> int:
        """Return the width of the activation at a hook.

        Raises:
            UserInputError: There is no such hook, or it does not hold one vector for each position.
        """
        ...

    def activations(self, tokens_ST: Tensor, hook: str) -> Tensor:
        """Run the model up to the hook and no further; returns [S, T, D] in the model's own number format."""
        ...

    def start(self, tokens_ST: Tensor, hook: str) -> State:
        """Run the model as far as ``finish`` can use it again; independent of what replaces the activation."""
        ...

    def finish(self, tokens_ST: Tensor, hook: str, state: State, edit: Edit) -> Tensor:
        """Go on from ``start`` with the activation edited; returns what ``logits`` takes, [S, T, R]."""
        ...

    def full(self, tokens_ST: Tensor, hook: str, edit: Edit) -> Tensor:
        """Run the whole model with the activation edited; the same as ``start`` and ``finish``, without reuse."""
        ...

    def logits(self, final_NR: Tensor) -> Tensor:
        """Return the logits of the next token, float32 [N, V]."""
        ...

    def restart_of(self, hook: str) -> str:
        """Return, in a few words, from where ``finish`` goes on."""
        ...

    def parameters(self) -> Sequence[tuple[str, Tensor]]:
        """Return the weights as loaded, by name, for their checksum."""
        ...


def same(x_STD: Tensor) -> Tensor:
    """The edit that changes nothing."""
    return x_STD


def unknown_hook(hook: str, names: Sequence[str]) -> UserInputError:
    """Return the error for a hook that the model does not have; it lists the ones with similar names."""
    near = difflib.get_close_matches(hook, names, n=_NEAR_NAMES, cutoff=0.6)
    blocks = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    hint = f"Near ones are {', '.join(near)}." if near else "Names look like blocks.0.hook_mlp_out."
    return UserInputError(f"the model has no hook {hook!r}; it has {len(blocks)} blocks", hint)
