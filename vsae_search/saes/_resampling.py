"""Resampling of dead latents as an option, for architectures in which nothing else revives them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vsae_search.saes.base import SaeConfig, SparseAutoencoder


class ResamplesDeadConfig(SaeConfig):
    """Hyper-parameters of :class:`ResamplesDead`."""

    resample_dead: bool = Field(
        default=False, description="Resample dead latents at 25 % and 50 % of training from badly reconstructed inputs."
    )


class ResamplesDead(SparseAutoencoder):
    """An autoencoder whose dead latents start again, twice, where the configuration asks for it.

    Reference:
        Bricken et al., "Towards Monosemanticity" (2023), appendix on neuron resampling.
    """

    Config: ClassVar[type[SaeConfig]] = ResamplesDeadConfig
    config: ResamplesDeadConfig

    def resample_at(self) -> tuple[float, ...]:
        """Shares of training at which dead latents are resampled."""
        return (0.25, 0.5) if self.config.resample_dead else ()
