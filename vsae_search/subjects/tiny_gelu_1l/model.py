"""A one-layer transformer with the architecture, parameter names and hook names of GELU-1L in TransformerLens.

Token and learned position embeddings, pre-LayerNorm attention and GELU MLP that write to a residual stream, a final
LayerNorm and an unembedding of its own. Reference: Elhage et al., "A Mathematical Framework for Transformer Circuits",
2021; Nanda and Bloom, "TransformerLens", 2022.

Shapes: S sequences, T positions, V vocabulary, D residual stream, H heads, K head dimensions, M neurons, C longest
context; W is the width of a hook (D, or M at ``mlp.hook_post``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

RESID_PRE = "blocks.0.hook_resid_pre"
ATTN_OUT = "blocks.0.hook_attn_out"
RESID_MID = "blocks.0.hook_resid_mid"
MLP_POST = "blocks.0.mlp.hook_post"
MLP_OUT = "blocks.0.hook_mlp_out"
RESID_POST = "blocks.0.hook_resid_post"
HOOK_NAMES = (RESID_PRE, ATTN_OUT, RESID_MID, MLP_POST, MLP_OUT, RESID_POST)
"""Points at which an activation can be read and replaced, in the order of the computation."""


@dataclass(frozen=True)
class OneLayerConfig:
    """Sizes of a one-layer model.

    Attributes:
        d_model: Width of the residual stream.
        n_heads: Number of heads, each of width ``d_model / n_heads``.
        d_mlp: Number of neurons.
        n_ctx: Longest context.
        d_vocab: Size of the vocabulary.
        eps: Added to the variance in each LayerNorm.
    """

    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 512
    n_ctx: int = 128
    d_vocab: int = 2048
    eps: float = 1e-5


class Point(NamedTuple):
    """A forward pass that has got as far as a hook.

    Attributes:
        hook: One of ``HOOK_NAMES``.
        value_STW: The activation at the hook; replace it (``point._replace(value_STW=...)``) to splice.
        residual_STD: What the residual stream carries past the hook; ``None`` where the hook is all of the stream.
    """

    hook: str
    value_STW: Tensor
    residual_STD: Tensor | None = None


class OneLayerModel(nn.Module):
    """A one-layer transformer whose forward pass can stop, and start again, at every hook."""

    def __init__(self, config: OneLayerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _Weights(W_E=(config.d_vocab, config.d_model))
        self.pos_embed = _Weights(W_pos=(config.n_ctx, config.d_model))
        self.blocks = nn.ModuleList([_Block(config)])
        self.ln_final = _LayerNorm(config)
        self.unembed = _Weights(W_U=(config.d_model, config.d_vocab), b_U=(config.d_vocab,))

    def width(self, hook: str) -> int:
        """Return the width of the activation at a hook."""
        return self.config.d_mlp if hook == MLP_POST else self.config.d_model

    def start(self, tokens_ST: Tensor) -> Point:
        """Return the point before the block: token embedding plus position embedding."""
        resid_STD = self.embed.W_E[tokens_ST] + self.pos_embed.W_pos[: tokens_ST.shape[1]]
        return Point(RESID_PRE, resid_STD)

    def advance(self, point: Point) -> Point:
        """Return the next point; there is none after ``blocks.0.hook_resid_post``."""
        hook, value, residual = point
        block = self.blocks[0]
        assert isinstance(block, _Block)
        match hook:
            case "blocks.0.hook_resid_pre":
                return Point(ATTN_OUT, block.attn(block.ln1(value)), value)
            case "blocks.0.hook_resid_mid":
                return Point(MLP_POST, block.mlp.neurons(block.ln2(value)), value)
            case "blocks.0.mlp.hook_post":
                return Point(MLP_OUT, block.mlp.write(value), residual)
        assert residual is not None, f"nothing comes after {hook}"
        return Point(RESID_MID if hook == ATTN_OUT else RESID_POST, residual + value)

    def run_to(self, tokens_ST: Tensor, hook: str) -> Point:
        """Run the model up to a hook and no further."""
        assert hook in HOOK_NAMES, f"no hook {hook}"
        point = self.start(tokens_ST)
        while point.hook != hook:
            point = self.advance(point)
        return point

    def finish(self, point: Point) -> Tensor:
        """Run the rest of the model and return the residual stream before the final LayerNorm."""
        while point.hook != RESID_POST:
            point = self.advance(point)
        return point.value_STW

    def logits(self, resid_STD: Tensor) -> Tensor:
        """Return the logits that the final residual stream (any leading shape) stands for."""
        return F.linear(self.ln_final(resid_STD), self.unembed.W_U.T, self.unembed.b_U)

    def forward(self, tokens_ST: Tensor) -> Tensor:
        """Return the logits of the next token at each position."""
        return self.logits(self.finish(self.start(tokens_ST)))


class _Weights(nn.Module):
    """Named parameters, so that the state dictionary has the names that TransformerLens uses."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def __getattr__(self, name: str) -> Tensor:
        value = super().__getattr__(name)
        assert not isinstance(value, nn.Module)
        return value


class _LayerNorm(_Weights):
    """LayerNorm with scale ``w`` and shift ``b``."""

    def __init__(self, config: OneLayerConfig) -> None:
        super().__init__(b=(config.d_model,))
        self.w = nn.Parameter(torch.ones(config.d_model))
        self.eps = config.eps

    def forward(self, x_STD: Tensor) -> Tensor:
        return F.layer_norm(x_STD, x_STD.shape[-1:], self.w, self.b, self.eps)


class _Attention(_Weights):
    """Causal multi-head attention with scores divided by sqrt(K)."""

    def __init__(self, config: OneLayerConfig) -> None:
        heads, width = config.n_heads, config.d_model // config.n_heads
        inward = {f"W_{name}": (heads, config.d_model, width) for name in "QKV"}
        biases = {f"b_{name}": (heads, width) for name in "QKV"}
        super().__init__(**inward, **biases, W_O=(heads, width, config.d_model), b_O=(config.d_model,))

    def forward(self, x_STD: Tensor) -> Tensor:
        q_SHTK, k_SHTK, v_SHTK = (
            self._project(x_STD, weight, bias)
            for weight, bias in ((self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V))
        )
        z_SHTK = F.scaled_dot_product_attention(q_SHTK, k_SHTK, v_SHTK, is_causal=True)
        return F.linear(z_SHTK.transpose(1, 2).flatten(2), self.W_O.flatten(0, 1).T, self.b_O)

    @staticmethod
    def _project(x_STD: Tensor, weight_HDK: Tensor, bias_HK: Tensor) -> Tensor:
        """Return what each head reads from the stream, [S, H, T, K]."""
        weight = weight_HDK.transpose(1, 2).flatten(0, 1)
        projected = F.linear(x_STD, weight, bias_HK.flatten())
        return projected.view(*x_STD.shape[:-1], *bias_HK.shape).transpose(1, 2)


class _Mlp(_Weights):
    """One hidden layer of GELU neurons."""

    def __init__(self, config: OneLayerConfig) -> None:
        super().__init__(
            W_in=(config.d_model, config.d_mlp),
            b_in=(config.d_mlp,),
            W_out=(config.d_mlp, config.d_model),
            b_out=(config.d_model,),
        )

    def neurons(self, x_STD: Tensor) -> Tensor:
        return F.gelu(F.linear(x_STD, self.W_in.T, self.b_in))

    def write(self, post_STM: Tensor) -> Tensor:
        return F.linear(post_STM, self.W_out.T, self.b_out)


class _Block(nn.Module):
    """Attention and MLP, each with a LayerNorm in front."""

    def __init__(self, config: OneLayerConfig) -> None:
        super().__init__()
        self.ln1, self.attn = _LayerNorm(config), _Attention(config)
        self.ln2, self.mlp = _LayerNorm(config), _Mlp(config)
