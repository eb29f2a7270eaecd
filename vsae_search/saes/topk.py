"""TopK autoencoder with the auxiliary loss on dead latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vsae_search.saes._kept import KeepsLargest, KeptConfig
from vsae_search.saes._revives import RevivesDead, RevivesDeadConfig
from vsae_search.saes._sparse import sparse_reconstruction_loss
from vsae_search.saes._sparse_select import TopOfRow, fixed_pays
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes._sparse_select import Rule


class TopKConfig(RevivesDeadConfig, KeptConfig):
    """Hyper-parameters of :class:`TopK`."""


@register("topk")
class TopK(KeepsLargest, RevivesDead):
    """``f = `` the ``k`` largest of ``ReLU((x - b_dec) W_enc + b_enc)``; loss ``‖x - xhat‖² + α AuxK``; ``‖w_i‖ = 1``.

    A token with fewer than ``k`` positive pre-activations has fewer than ``k`` firing latents.

    Reference:
        Gao et al., "Scaling and evaluating sparse autoencoders" (2024), sections 2.3-2.4.
    """

    Config: ClassVar[type[SaeConfig]] = TopKConfig
    adam_eps: ClassVar[float] = 6.25e-10
    config: TopKConfig

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE, plus the auxiliary loss while some latents are marked dead."""
        del progress  # neither the code nor the auxiliary loss is warmed up
        if fixed_pays(self, x_BD, self.config.k):
            return self.sparse_loss(x_BD, TopOfRow(self.config.k))
        f_BF = self.encode(x_BD)
        reconstruction, error_BD = self.reconstruction(f_BF, x_BD)
        fired_F = f_BF.detach().sum(0) > 0
        auxk = self.auxk(x_BD, error_BD)
        return Loss(reconstruction + auxk, reconstruction, {"auxk": auxk}, fired_F)

    def sparse_loss(self, x_BD: Tensor, rule: Rule) -> Loss:
        """The same loss, with its gradients, from the selected entries of the code alone.

        Args:
            x_BD: Scaled activations [B, D].
            rule: Selects the entries.

        Returns:
            The loss with its named parts.
        """
        f_N, support, dead = self.sparse_code(x_BD, rule)
        reconstruction, error_BD = sparse_reconstruction_loss(f_N, support, self.W_dec, self.b_dec, x_BD)
        fired_F = support.sum_by_latent(f_N.detach()) > 0
        auxk = self.sparse_auxk(x_BD, error_BD, dead)
        return Loss(reconstruction + auxk, reconstruction, {"auxk": auxk}, fired_F)
