"""BatchTopK autoencoder: a budget of firing latents per batch in training, one threshold afterwards.

Shapes: B batch, D d_in, F d_sae, K entries kept in a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._batch_select import largest_entries, smallest_kept
from vsae_search.saes._jump import Float32Threshold, exceeds, fold_with_threshold
from vsae_search.saes._sparse_select import TopOfBatch, fixed_pays
from vsae_search.saes._threshold import row_chunks, threshold_for_l0
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register
from vsae_search.saes.topk import TopK, TopKConfig

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.canonical import CanonicalSae

_MEMORY_STEPS = 1000
"""Steps over which the running mean of the smallest kept value forgets."""


class BatchTopKConfig(TopKConfig):
    """Hyper-parameters of :class:`BatchTopK`."""

    k: int = Field(default=32, gt=0, description="Mean number of latents per token: the L0.")


@register("batch_topk")
class BatchTopK(Float32Threshold, TopK):
    """The ``B k`` largest of all ``ReLU((x - b_dec) W_enc + b_enc)`` of a batch; loss ``‖x - xhat‖² + α AuxK``.

    A token may use more than ``k`` latents and another fewer. ``B`` is the whole batch of a step: splitting it over
    workers would be another algorithm.

    That selection exists in training only. :meth:`encode` looks at one token at a time: ``f = ReLU(π)`` where it is
    above one threshold ``θ``. :meth:`calibrate` sets ``θ`` so that L0 on held-out rows is ``k`` exactly; until then
    ``θ`` is the mean, over the latest batches, of the smallest value kept in a batch (and before the first step the
    exact value for the rows that ``initialise`` saw; for a fresh object, 0). Training that goes on takes ``θ`` back to
    the running mean, so that calibrating never changes what is learned.

    Reference:
        Bussmann et al., "BatchTopK sparse autoencoders" (2024).
    """

    Config: ClassVar[type[SaeConfig]] = BatchTopKConfig
    config: BatchTopKConfig
    threshold: Tensor
    smallest_kept: Tensor
    smallest_kept_steps: Tensor

    def build(self) -> None:
        """Add the threshold [], the running mean of the smallest kept value [] and the steps in it []."""
        super().build()
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("smallest_kept", torch.zeros(()))
        self.register_buffer("smallest_kept_steps", torch.zeros(()))
        self._latest_smallest: Tensor | None = None

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of scaled activations [B, D]: what is above the threshold."""
        f_BF = self.preactivations(x_BD).relu()
        return f_BF * exceeds(f_BF, self.threshold.view(1))  # as a vector, or it would be rounded to the code's type

    def training_code(self, x_BD: Tensor) -> Tensor:
        """As :meth:`encode`, with the threshold of training [B, F]."""
        f_BF = self.preactivations(x_BD).relu()
        return f_BF * exceeds(f_BF, self.running_threshold().view(1))

    def running_threshold(self) -> Tensor:
        """The threshold [] that training would go on with: the running mean once there is one."""
        return torch.where(self.smallest_kept_steps > 0, self.smallest_kept, self.threshold)

    def declared_l0(self) -> int | None:
        """None: ``k`` is a mean."""
        return None

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE of the batch's selection, plus the auxiliary loss while some latents are marked dead."""
        del progress
        if fixed_pays(self, x_BD, self.config.k):
            rule = TopOfBatch(self.config.k)
            loss = self.sparse_loss(x_BD, rule)
            self._latest_smallest = rule.smallest
            return loss
        f_BF, fired_F = self.select(self.preactivations(x_BD))
        reconstruction, error_BD = self.reconstruction(f_BF, x_BD)
        auxk = self.auxk(x_BD, error_BD)
        return Loss(reconstruction + auxk, reconstruction, {"auxk": auxk}, fired_F)

    def select(self, pre_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Training code of a batch, and a note of its smallest kept value for the running mean.

        Args:
            pre_BF: Pre-activations [B, F].

        Returns:
            Code [B, F] with at most ``B k`` entries above 0, and which latents fire [F], bool.
        """
        count = len(pre_BF) * self.config.k
        smallest = smallest_kept(pre_BF, count)
        if smallest is not None and smallest > 0:
            below = torch.nextafter(smallest, torch.zeros_like(smallest))
            f_BF = torch.nn.functional.threshold(pre_BF, float(below), 0.0)  # one pass, and one for its gradient
            self._latest_smallest = smallest
            return f_BF, f_BF.detach().sum(0) > 0
        flat_BF = pre_BF.flatten()
        index_K = largest_entries(pre_BF, count)
        kept_K = flat_BF.gather(0, index_K).relu()
        f_BF = torch.zeros_like(flat_BF).scatter(0, index_K, kept_K).view_as(pre_BF)
        with torch.no_grad():
            self._latest_smallest = torch.where(kept_K > 0, kept_K, torch.inf).amin()
            mass_F = kept_K.new_zeros(pre_BF.shape[1]).index_add_(0, index_K % pre_BF.shape[1], kept_K.detach())
        return f_BF, mass_F > 0

    @torch.no_grad()
    def after_step(self) -> None:
        """Unit decoder rows; the running mean takes in the latest batch, once, and the threshold follows it."""
        super().after_step()
        if self._latest_smallest is not None:
            found = self._latest_smallest.isfinite()
            self.smallest_kept_steps += found
            weight = found / self.smallest_kept_steps.clamp(1, _MEMORY_STEPS)
            value = torch.where(found, self._latest_smallest, 0.0)
            self.smallest_kept += weight * (value - self.smallest_kept)
            self._latest_smallest = None
        self.threshold.copy_(self.running_threshold())

    @torch.no_grad()
    def initialise(self, x_BD: Tensor) -> None:
        """As the base, and a first threshold for the sample."""
        super().initialise(x_BD)
        self.calibrate(x_BD)

    @torch.no_grad()
    def calibrate(self, x_BD: Tensor) -> None:
        """Set the threshold so that ``k`` latents per row are above it, on average over held-out rows [B, D].

        Exact unless values tie at the threshold, which all fall below it then.
        """
        codes = (self.preactivations(chunk_BD).relu() for chunk_BD in row_chunks(x_BD, self.config.d_sae))
        self.threshold.fill_(threshold_for_l0(codes, len(x_BD), self.config.k))

    def metrics(self) -> dict[str, float]:
        """``threshold`` in use, and ``threshold_running``, the running mean of training that it replaced."""
        return {"threshold": float(self.threshold), "threshold_running": float(self.smallest_kept)}

    def canonical(self) -> CanonicalSae:
        """Folded inference form: every latent has the same threshold."""
        return fold_with_threshold(self, self.threshold.expand(self.config.d_sae))
