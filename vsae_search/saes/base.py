"""What every sparse autoencoder of the product is: configuration, loss, code, training hooks.

Shapes: B batch, D d_in, F d_sae, K dead latents, N replaced latents.

Conventions, the same for every architecture (and therefore for every coefficient in a search space):

* inputs are multiplied by one scalar so that E‖x‖² = d_in;
* loss = mean over tokens of (sum of squared errors + penalties of that token): never a sum over the batch, never a
  mean over dimensions;
* ``encode`` is deterministic. L0 is counted on it, and it is what replaces the activation in a spliced forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vsae_search.saes._affine import encoder_affine, reconstruction_loss
from vsae_search.saes._init import (
    geometric_median,
    normalise_decoder_,
    project_decoder_gradient_,
    random_directions_,
)
from vsae_search.saes.canonical import CanonicalSae, fold

if TYPE_CHECKING:
    from collections.abc import Sequence


class SaeConfig(BaseModel):
    """Hyper-parameters that every architecture has; subclasses add their own.

    Attributes:
        without_effect: Inherited fields that the architecture does not use; a search space may not give them a range.
    """

    without_effect: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    d_in: int = Field(gt=0, description="Width of the activations (given by the subject).")
    d_sae: int = Field(gt=0, description="Number of latents.")
    lr: float = Field(default=3e-4, gt=0, description="Adam learning rate at its plateau.")


class Loss(NamedTuple):
    """Loss of one batch.

    Attributes:
        total: Scalar that is minimised, ``reconstruction + Σ penalties``.
        reconstruction: Sum-of-squares error, mean over tokens.
        penalties: Named penalty terms, each already weighted and warmed up, mean over tokens.
        fired_F: Which latents fired on some token of the batch [F], bool.
    """

    total: Tensor
    reconstruction: Tensor
    penalties: dict[str, Tensor]
    fired_F: Tensor


class SparseAutoencoder(nn.Module):
    """Base of all architectures: one encoder matrix, one decoder matrix, two biases, and what is done to them.

    A subclass sets ``Config``, implements :meth:`encode` and :meth:`loss`, and overrides what differs: class
    attributes, :meth:`build` for more parameters, :meth:`canonical` for another activation. An architecture that is not
    trained by gradient sets ``trained_by_gradient = False`` and implements :meth:`observe` and :meth:`solve`.

    Attributes:
        config: The frozen hyper-parameters.
        W_enc: Encoder weights [D, F].
        b_enc: Encoder bias [F].
        W_dec: Decoder weights [F, D]; row i is the direction that latent i writes.
        b_dec: Decoder bias [D].
        seed: Seed of the initial weights, and of any later resampling.
        initialised: Whether :meth:`initialise` has been called (or the weights were loaded).
        penalty_warmup_fraction: Share of training over which penalties grow linearly to full weight; set by ``fit``.
        dead_K: Indices of the latents that count as dead [K]; set by :meth:`mark_dead`.
    """

    Config: ClassVar[type[SaeConfig]] = SaeConfig
    name: ClassVar[str] = ""
    """Registered name; set by ``register``."""
    subtract_b_dec: ClassVar[bool] = True
    """Whether the encoder sees ``x - b_dec``; ``b_dec`` then starts at the geometric median."""
    unit_norm_decoder: ClassVar[bool] = True
    """Whether decoder rows are kept at norm 1 (gradient projected before a step, rows renormalised after it)."""
    initial_decoder_norm: ClassVar[float] = 1.0
    """Norm of decoder rows at the start; encoder columns start as the same vectors."""
    adam_betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    adam_eps: ClassVar[float] = 1e-8
    trained_by_gradient: ClassVar[bool] = True

    config: SaeConfig
    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, config: SaeConfig, *, seed: int = 0) -> None:
        super().__init__()
        assert isinstance(config, self.Config), f"{type(self).__name__} is configured by {self.Config.__name__}"
        self.config = config
        self.seed = seed
        self.initialised = False
        self.penalty_warmup_fraction = 0.0
        d_in, d_sae = config.d_in, config.d_sae
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.dead_K = torch.zeros(0, dtype=torch.long)
        self.build()
        if not self.W_enc.is_meta:  # on the meta device only shapes are wanted, as when a file is checked
            self.reset_parameters(torch.Generator().manual_seed(seed))

    # -- to be implemented by an architecture ---------------------------------------------------------------------

    def build(self) -> None:
        """Create further parameters and buffers with their constant initial values; called once, before the reset."""

    def encode(self, x_BD: Tensor) -> Tensor:
        """Deterministic code.

        Args:
            x_BD: Scaled activations [B, D].

        Returns:
            Code [B, F], non-negative; a latent fires where it is above 0.
        """
        raise NotImplementedError

    def training_code(self, x_BD: Tensor) -> Tensor:
        """The code [B, F] of activations [B, D] that training judges itself by; nothing in it comes from calibration.

        :meth:`encode`, unless that has a threshold which :meth:`calibrate` fits.
        """
        return self.encode(x_BD)

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Training loss of a batch.

        Args:
            x_BD: Scaled activations [B, D].
            progress: Share of training that is done, in [0, 1]; drives warm-ups and annealing.

        Returns:
            The loss with its named parts.
        """
        raise NotImplementedError

    def declared_l0(self) -> int | None:
        """Number of latents that :meth:`encode` keeps for every token, or None where it is not fixed."""
        return None

    # -- maps ---------------------------------------------------------------------------------------------------

    def preactivations(self, x_BD: Tensor) -> Tensor:
        """Encoder output before the activation [B, F]."""
        return encoder_affine(x_BD, self.W_enc, self.b_enc, self.b_dec if self.subtract_b_dec else None)

    def decode(self, f_BF: Tensor) -> Tensor:
        """Reconstruction [B, D] of a code [B, F]."""
        return torch.addmm(self.b_dec, f_BF, self.W_dec)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Reconstruction [B, D] of scaled activations [B, D] through the deterministic code."""
        return self.decode(self.encode(x_BD))

    def reconstruction(self, f_BF: Tensor, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Sum-of-squares error of a code, mean over tokens, and the detached error ``xhat - x`` [B, D]."""
        return reconstruction_loss(f_BF, self.W_dec, self.b_dec, x_BD)

    def canonical(self) -> CanonicalSae:
        """Folded inference form: unit decoder rows, no input bias; reproduces :meth:`encode` up to the fold.

        Its code is ``f_i ‖w_i‖``, which for a unit-norm decoder is :meth:`encode` itself.
        """
        return fold(self.W_enc, self.b_enc, self.W_dec, self.b_dec, subtract_b_dec=self.subtract_b_dec)

    # -- start, steps, end ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Random decoder directions, encoder tied to them (at the start only), biases 0.

        Starting the encoder as the transposed decoder is the most effective single measure against dead latents (Gao
        et al. 2024, section 2.4).
        """
        random_directions_(self.W_dec, self.initial_decoder_norm, generator)
        self.W_enc.copy_(self.W_dec.T)
        self.b_enc.zero_()
        self.b_dec.zero_()

    @torch.no_grad()
    def initialise(self, x_BD: Tensor) -> None:
        """Set what depends on data: ``b_dec`` becomes the geometric median where it is subtracted from the input.

        Args:
            x_BD: Scaled sample activations [B, D]; a few thousand rows are enough.
        """
        if self.subtract_b_dec:
            self.b_dec.copy_(geometric_median(x_BD.to(self.b_dec)))
        self.initialised = True

    @property
    def wants_truth(self) -> bool:
        """Whether :meth:`assign_sets` has to be called before training: an oracle control, for toy subjects only."""
        return False

    def assign_sets(self, directions_MD: Tensor, sets: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Take in the true features of a toy subject; only where :attr:`wants_truth` says so.

        Args:
            directions_MD: True unit directions [M, D].
            sets: Kind and features of each set of dependent features.
        """
        raise NotImplementedError

    def before_step(self) -> None:
        """After the backward pass, before the optimiser: project the decoder gradient off the decoder rows."""
        if self.unit_norm_decoder and self.W_dec.grad is not None:
            project_decoder_gradient_(self.W_dec, self.W_dec.grad)

    def after_step(self) -> None:
        """After the optimiser: restore constraints. Calling it twice changes nothing more."""
        if self.unit_norm_decoder:
            normalise_decoder_(self.W_dec)

    def observe(self, x_BD: Tensor) -> None:
        """Take in one batch [B, D]; only for architectures with ``trained_by_gradient = False``."""
        raise NotImplementedError

    def solve(self) -> None:
        """Turn what was observed into weights; called before every rung when ``trained_by_gradient`` is False."""
        raise NotImplementedError

    def calibrate(self, x_BD: Tensor) -> None:
        """Fit inference thresholds and diagnostics on held-out scaled activations [B, D]; by default nothing to do.

        To be called before every evaluation. It never changes what training does next.
        """

    def metrics(self) -> dict[str, float]:
        """Diagnostics that only this architecture has, from the last :meth:`calibrate`; empty by default."""
        return {}

    # -- penalties and dead latents -------------------------------------------------------------------------------

    def warm_up(self, progress: float) -> float:
        """Factor in [0, 1] of the penalties: linear over the first ``penalty_warmup_fraction`` of training, then 1."""
        if progress >= self.penalty_warmup_fraction:
            return 1.0
        return progress / self.penalty_warmup_fraction

    def mark_dead(self, dead_F: Tensor) -> None:
        """Say which latents [F] (bool) count as dead from now on; called at reporting steps, because it waits."""
        self.dead_K = dead_F.nonzero().squeeze(1)

    def resample_at(self) -> tuple[float, ...]:
        """Shares of training at which dead latents are resampled; empty for never."""
        return ()

    def resample_candidates(self, dead_F: Tensor, x_BD: Tensor) -> Tensor:
        """Which of the dead latents [F] (bool) are to be resampled, seen on a batch [B, D]; all of them by default."""
        del x_BD
        return dead_F

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """Give latents new weights: decoder row and encoder column along a direction, encoder bias 0.

        The encoder column gets a fifth of the mean norm of living ones, so that the latent starts to fire weakly; the
        decoder row norm 1, or the mean norm of living rows where it is free.

        Args:
            index_N: Latents to replace [N].
            direction_ND: Unit directions [N, D].
            alive_F: Which latents are alive [F], bool.

        Reference:
            Bricken et al., "Towards Monosemanticity" (2023), appendix on neuron resampling.
        """
        alive = alive_F.any()  # without a living latent the starting norm stands in for their mean
        norm_F = torch.linalg.vector_norm(self.W_enc, dim=0)
        encoder_norm = torch.where(alive, norm_F[alive_F].mean(), self.initial_decoder_norm)
        decoder_norm = torch.ones_like(encoder_norm)
        if not self.unit_norm_decoder:
            norm_F = torch.linalg.vector_norm(self.W_dec, dim=1)
            decoder_norm = torch.where(alive, norm_F[alive_F].mean(), self.initial_decoder_norm)
        self.W_dec[index_N] = direction_ND * decoder_norm
        self.W_enc[:, index_N] = direction_ND.T * (0.2 * encoder_norm)
        self.b_enc[index_N] = 0.0

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one; resampling resets these slices."""
        return {"W_enc": 1, "b_enc": 0, "W_dec": 0}
