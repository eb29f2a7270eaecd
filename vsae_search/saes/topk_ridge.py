"""TopK autoencoder with a ridge penalty: what a variational TopK autoencoder of fixed variance comes down to.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vsae_search.saes._auxk import keep_largest
from vsae_search.saes._sparse import sparse_reconstruction_loss
from vsae_search.saes._sparse_select import TopOfRow, fixed_pays
from vsae_search.saes._sparse_squares import PositiveSquares
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register
from vsae_search.saes.topk import TopK, TopKConfig

if TYPE_CHECKING:
    from torch import Tensor


class TopKRidgeConfig(TopKConfig):
    """Hyper-parameters of :class:`TopKRidge`."""

    ridge_coefficient: float = Field(
        default=0.01,
        ge=0,
        description="Weight of the sum of squared codes (about 0.001 to 10); half the coefficient of a KL divergence.",
    )
    ridge_scope: Literal["all", "winners"] = Field(
        default="all",
        description="Latents of a token that are penalised: all with a positive pre-activation, also those that are "
        "not kept, or the k winners.",
    )


@register("topk_ridge")
class TopKRidge(TopK):
    """TopK with loss ``‖x - xhat‖² + α AuxK + λ Σ f²``; a control for every claim about variational TopK.

    With a posterior of fixed variance whose mean is decoded, nothing is sampled and the KL divergence to a standard
    normal prior is ``Σ μ² / 2``: ridge regression on the code. Scope ``all`` is the form whose results were published
    (Baker & Li, "Analysis of variational sparse autoencoders", 2025): it also pulls down the pre-activations of latents
    that lose, which then die. Scope ``winners`` is its later variant with a masked divergence.
    """

    Config: ClassVar[type[SaeConfig]] = TopKRidgeConfig
    config: TopKRidgeConfig

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE, the warmed-up ridge penalty and the auxiliary loss, mean over tokens."""
        weight = self.config.ridge_coefficient * self.warm_up(progress) / len(x_BD)
        if fixed_pays(self, x_BD, self.config.k):
            return self._sparse_ridge_loss(x_BD, weight)
        pre_BF = self.preactivations(x_BD)
        f_BF = keep_largest(pre_BF, self.config.k)
        reconstruction, error_BD = self.reconstruction(f_BF, x_BD)
        auxk = self.auxk(x_BD, error_BD)
        penalised_BF = pre_BF.relu() if self.config.ridge_scope == "all" else f_BF
        ridge = penalised_BF.square().sum() * weight
        fired_F = f_BF.detach().sum(0) > 0
        return Loss(reconstruction + ridge + auxk, reconstruction, {"ridge": ridge, "auxk": auxk}, fired_F)

    def _sparse_ridge_loss(self, x_BD: Tensor, weight: float) -> Loss:
        """The same from the winners and, where all positive pre-activations are penalised, from sums over those."""
        squares = PositiveSquares(self) if self.config.ridge_scope == "all" else None
        f_N, support, dead = self.sparse_code(x_BD, TopOfRow(self.config.k), squares)
        reconstruction, error_BD = sparse_reconstruction_loss(f_N, support, self.W_dec, self.b_dec, x_BD)
        ridge = (f_N.square() if squares is None else squares.by_latent()).sum() * weight
        auxk = self.sparse_auxk(x_BD, error_BD, dead)
        fired_F = support.sum_by_latent(f_N.detach()) > 0
        return Loss(reconstruction + ridge + auxk, reconstruction, {"ridge": ridge, "auxk": auxk}, fired_F)
