"""JumpReLU autoencoder: one learned firing threshold per latent.

Shapes: B batch, D d_in, F d_sae, K and N dead latents, N also entries of the code that matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vsae_search.saes._init import geometric_median
from vsae_search.saes._jump import Float32Threshold, exceeds, fold_with_threshold
from vsae_search.saes._rectified import row_blocks
from vsae_search.saes._sparse import selected_preactivations, sparse_reconstruction_loss
from vsae_search.saes._sparse_select import Above, threshold_pays
from vsae_search.saes.base import Loss, SaeConfig, SparseAutoencoder
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from vsae_search.saes.canonical import CanonicalSae


class JumpReluConfig(SaeConfig):
    """Hyper-parameters of :class:`JumpRelu`."""

    mode: Literal["tanh", "step", "target_l0"] = Field(
        default="tanh",
        description="Penalty: tanh of the code; a count of firing latents (L0); or the squared deviation of L0 from "
        "target_l0.",
    )
    sparsity_coefficient: float = Field(
        default=1.0, ge=0, description="Weight of the penalty in modes tanh (about 0.1 to 40) and step (0.1 to 30)."
    )
    tanh_scale: float = Field(default=4.0, gt=0, description="Slope c of tanh(c f) in mode tanh.")
    target_l0: float = Field(default=32.0, gt=0, description="L0 to be reached in mode target_l0.")
    target_coefficient: float = Field(
        default=1.0,
        ge=0,
        description="Weight of (L0 / target_l0 - 1)² in mode target_l0, in units of d_in, that is of the error of "
        "reconstructing nothing (about 0.3 to 3).",
    )
    bandwidth: float = Field(
        default=0.5,
        gt=0,
        description="Width of the window around a threshold in which pre-activations move it (0.05 to 2).",
    )
    initial_threshold: float = Field(default=0.1, ge=0, description="Threshold of every latent at the start.")
    preact_coefficient: float = Field(
        default=3e-6, ge=0, description="Weight of the distance of dead latents below their thresholds; 0 for none."
    )
    straight_through_input: bool | None = Field(
        default=None,
        description="Whether pre-activations too, and so all parameters, receive the straight-through gradient; left "
        "out, in mode tanh only.",
    )

    @model_validator(mode="after")
    def _target_fits(self) -> Self:
        if self.mode == "target_l0" and self.target_l0 > self.d_sae:
            raise ValueError(f"target_l0 = {self.target_l0:g} is more than d_sae = {self.d_sae}")
        return self


class _Jump(torch.autograd.Function):
    """JumpReLU and the number of tokens that each latent fires on; see :func:`jump`."""

    @staticmethod
    def forward(
        ctx: Any, pre_BF: Tensor, threshold_F: Tensor, bandwidth: float, to_input: bool
    ) -> tuple[Tensor, Tensor]:
        f_BF, count_F = torch.empty_like(pre_BF), torch.zeros_like(threshold_F)
        for rows in row_blocks(pre_BF):
            fires_bF = exceeds(pre_BF[rows], threshold_F)
            count_F += fires_bF.sum(0, dtype=threshold_F.dtype)
            torch.mul(pre_BF[rows], fires_bF, out=f_BF[rows])
        ctx.save_for_backward(pre_BF, threshold_F)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        ctx.set_materialize_grads(False)
        return f_BF, count_F

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        pre_BF, threshold_F = ctx.saved_tensors
        df_BF, dcount_F = grads
        df_BF = torch.zeros_like(pre_BF) if df_BF is None else df_BF
        dcount_F = torch.zeros_like(threshold_F) if dcount_F is None else dcount_F
        dpre_BF, dthreshold_F = torch.empty_like(pre_BF), torch.zeros_like(threshold_F)
        for rows in row_blocks(pre_BF):
            df_bF, dpre_bF, margin_bF = df_BF[rows], dpre_BF[rows], pre_BF[rows] - threshold_F
            # what one unit of the step would change, (θ df + dcount), for pre-activations near enough to stand for it
            step_bF = torch.addcmul(dcount_F, df_bF, threshold_F).mul_(margin_bF.abs().lt_(0.5 * ctx.bandwidth))
            dthreshold_F -= step_bF.sum(0) / ctx.bandwidth
            torch.gt(margin_bF, 0.0, out=dpre_bF).mul_(df_bF)
            if ctx.to_input:
                dpre_bF.add_(step_bF, alpha=1 / ctx.bandwidth)
        return dpre_BF, dthreshold_F, None, None


def jump(pre_BF: Tensor, threshold_F: Tensor, *, bandwidth: float, to_input: bool) -> tuple[Tensor, Tensor]:
    """JumpReLU ``f = π 1[π > θ]`` and the count ``Σ_b 1[π > θ]``, with straight-through gradients.

    With ``K = 1[|π - θ| < ε / 2]``: ``∂f/∂θ := -(θ/ε) K``, ``∂1/∂θ := -(1/ε) K``, ``∂f/∂π := 1[π > θ]``; with
    ``to_input`` pre-activations get the negative of what their threshold gets on top.

    Args:
        pre_BF: Pre-activations [B, F].
        threshold_F: Thresholds [F], not negative.
        bandwidth: Width ``ε`` of the window.
        to_input: Whether pre-activations get the straight-through gradient as well.

    Returns:
        Code [B, F] and number of tokens on which each latent fires [F].

    Reference:
        Rajamanoharan et al., "Jumping ahead" (2024), equations 11-12; ``to_input``: Anthropic, "Circuits Updates -
        January 2025".
    """
    f_BF, count_F = _Jump.apply(pre_BF, threshold_F, bandwidth, to_input)  # type: ignore[no-untyped-call]
    return f_BF, count_F


class _TanhSum(torch.autograd.Function):
    """See :func:`tanh_sum`."""

    @staticmethod
    def forward(ctx: Any, f_BF: Tensor, scale: float) -> Tensor:
        tanh_BF, total = torch.empty_like(f_BF), f_BF.new_zeros(())
        for rows in row_blocks(f_BF):
            total += torch.mul(f_BF[rows], scale, out=tanh_BF[rows]).tanh_().sum()
        ctx.save_for_backward(tanh_BF)
        ctx.scale = scale
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (tanh_BF,) = ctx.saved_tensors
        slope, df_BF = grads[0] * ctx.scale, torch.empty_like(tanh_BF)
        for rows in row_blocks(tanh_BF):
            torch.mul(tanh_BF[rows], tanh_BF[rows], out=df_BF[rows]).neg_().add_(1.0).mul_(slope)
        return df_BF, None


def tanh_sum(f_BF: Tensor, scale: float) -> Tensor:
    """``Σ tanh(scale f)`` over all entries of a code [B, F], with two matrices of its size in memory, not four."""
    total: Tensor = _TanhSum.apply(f_BF, scale)  # type: ignore[no-untyped-call]
    return total


@register("jumprelu")
class JumpRelu(Float32Threshold, SparseAutoencoder):
    """``f = π 1[π > θ]`` with ``π = x W_enc + b_enc``, ``θ_i >= 0`` and ``‖w_i‖ = 1``.

    Loss ``‖x - xhat‖²`` plus, by mode, ``λ Σ tanh(c f_i)``, ``λ L0`` or ``c d_in (mean L0 / L0* - 1)²``, plus
    ``λ_P Σ ReLU(θ_i - π_i)`` over latents marked dead. Thresholds are learned as they are (a log-threshold hardly moves
    under Adam), with straight-through gradients: see :func:`jump`. L0 is the count of ``π > θ``: counting on the code
    instead would see no pre-activation below its threshold but, where ``θ < ε/2``, every silent latent.

    Reference:
        Rajamanoharan et al., "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders"
        (2024); Anthropic, "Circuits Updates - January 2025".
    """

    Config: ClassVar[type[SaeConfig]] = JumpReluConfig
    subtract_b_dec: ClassVar[bool] = False
    adam_betas: ClassVar[tuple[float, float]] = (0.0, 0.999)
    config: JumpReluConfig
    threshold: nn.Parameter

    def build(self) -> None:
        """Add the thresholds [F]."""
        self.threshold = nn.Parameter(torch.full((self.config.d_sae,), self.config.initial_threshold))

    @torch.no_grad()
    def initialise(self, x_BD: Tensor) -> None:
        """Start as if inputs were centred: ``b_dec`` at the median of the rows and ``b_enc`` to make up for it."""
        super().initialise(x_BD)
        self.b_dec.copy_(geometric_median(x_BD.to(self.b_dec)))
        self.b_enc.copy_(-(self.b_dec @ self.W_enc))

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of scaled activations [B, D]."""
        pre_BF = self.preactivations(x_BD)
        return pre_BF * exceeds(pre_BF, self.threshold)

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE, the warmed-up penalty of the mode and the pre-activation loss, mean over tokens."""
        config = self.config
        to_input = config.mode == "tanh" if config.straight_through_input is None else config.straight_through_input
        sparse = threshold_pays(self, x_BD, self._window_start())
        reconstruct = self._reconstruct_sparse if sparse else self._reconstruct
        reconstruction, f, count_F, preact = reconstruct(x_BD, to_input=to_input)
        sparsity = self.warm_up(progress) * self._sparsity(f, count_F, len(x_BD))
        penalties = {"sparsity": sparsity.to(reconstruction), "preact": preact.to(reconstruction)}
        return Loss(reconstruction + sum(penalties.values()), reconstruction, penalties, count_F.detach() > 0)

    def _window_start(self) -> Tensor:
        """Pre-activations [F] from which on an entry fires or moves its threshold."""
        return self.threshold.detach() - 0.5 * self.config.bandwidth

    def _reconstruct(self, x_BD: Tensor, *, to_input: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruction loss, code [B, F], firing tokens per latent [F] and weighted pre-activation loss."""
        pre_BF = self.preactivations(x_BD)
        f_BF, count_F = jump(pre_BF, self.threshold, bandwidth=self.config.bandwidth, to_input=to_input)
        preact = self._preact(lambda: pre_BF.index_select(1, self.dead_K), x_BD)
        return self.reconstruction(f_BF, x_BD)[0], f_BF, count_F, preact

    def _reconstruct_sparse(self, x_BD: Tensor, *, to_input: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same from the entries that fire or move a threshold; of the code, these entries [N]."""
        ((pre_N, _, support),) = selected_preactivations(self, x_BD, [Above(self._window_start())])
        threshold_N = self.threshold.index_select(0, support.latent_N)
        # one row of N "latents", each of which is seen once
        f_1N, count_N = jump(pre_N[None], threshold_N, bandwidth=self.config.bandwidth, to_input=to_input)
        reconstruction, _ = sparse_reconstruction_loss(f_1N[0], support, self.W_dec, self.b_dec, x_BD)
        preact = self._preact(
            lambda: torch.addmm(self.b_enc[self.dead_K], x_BD, self.W_enc.index_select(1, self.dead_K)), x_BD
        )
        return reconstruction, f_1N, support.sum_by_latent(count_N), preact

    def _sparsity(self, f: Tensor, count_F: Tensor, num_rows: int) -> Tensor:
        config = self.config
        if config.mode == "tanh":
            return tanh_sum(f, config.tanh_scale) * (config.sparsity_coefficient / num_rows)
        l0 = count_F.sum() / num_rows
        if config.mode == "step":
            return config.sparsity_coefficient * l0
        return (config.target_coefficient * config.d_in) * (l0 / config.target_l0 - 1).square()

    def _preact(self, dead_preactivations: Callable[[], Tensor], x_BD: Tensor) -> Tensor:
        if self.config.preact_coefficient == 0 or len(self.dead_K) == 0:
            return x_BD.new_zeros(())
        below_BN = (self.threshold.index_select(0, self.dead_K) - dead_preactivations()).relu()
        return below_BN.sum() * (self.config.preact_coefficient / len(x_BD))

    @torch.no_grad()
    def after_step(self) -> None:
        """Unit decoder rows; thresholds not below 0."""
        super().after_step()
        self.threshold.clamp_(min=0.0)

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one."""
        return super().latent_axes() | {"threshold": 0}

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As the base, and the thresholds start again."""
        super().replace_latents(index_N, direction_ND, alive_F)
        self.threshold[index_N] = self.config.initial_threshold

    def canonical(self) -> CanonicalSae:
        """Folded inference form."""
        return fold_with_threshold(self, self.threshold)
