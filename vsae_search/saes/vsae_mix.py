"""Variational autoencoder with a spike-and-slab posterior and a joint prior of which latents of a set are on.

Shapes: B batch, D d_in, F d_sae, S sets, N recent rows or replaced latents, M latents of a
set or true features, E all latents of some sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from vsae_search.errors import UserInputError
from vsae_search.saes._cofiring import LatentSet, Partners, match_directions, match_sets, update_partners
from vsae_search.saes._legacy_seed import LegacySeedConfig, LegacySeedSae, shifted_divergence
from vsae_search.saes._posterior import Moments, at_least_float32
from vsae_search.saes._presence import SET_KINDS, largest_set, structure_correction
from vsae_search.saes._threshold import row_chunks
from vsae_search.saes.canonical import CanonicalSae, fold
from vsae_search.saes.registry import register
from vsae_search.saes.vsae_spike_slab import VsaeSpikeSlab, VsaeSpikeSlabConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vsae_search.saes.base import Loss, SaeConfig

_ORACLE_COSINE = 0.5
"""A latent stands for a true feature if it is at least this similar to it."""


class VsaeMixConfig(VsaeSpikeSlabConfig, LegacySeedConfig):
    """Hyper-parameters of :class:`VsaeMix`."""

    sets_from: Literal["cofiring", "oracle", "none"] = Field(
        default="cofiring",
        description="Where sets of latents come from: how latents fire (cofiring), the true features of a toy subject "
        "(oracle, a control: the trial has to call assign_sets), or nowhere (none, the spike-and-slab prior).",
    )
    set_size: int = Field(default=4, ge=2, le=8, description="Largest number of latents in a set.")
    smoothing: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Weight epsilon of the independent prior in the mixture; at 1 sets have no effect.",
    )
    min_correlation: float = Field(
        default=0.3, gt=0, le=1, description="Least phi coefficient of the firing of two latents of a correlated set."
    )
    min_anticorrelation: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Least share of the joint firings expected by chance that is missing between two latents of an "
        "anticorrelated set.",
    )
    refresh_fraction: float = Field(
        default=0.05, gt=0, le=1, description="Share of training between two refreshes of the sets."
    )
    freeze_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Share of training after which the sets stay as they are."
    )
    set_memory: float = Field(
        default=0.5, ge=0, lt=1, description="Weight of a pair's earlier score in a refresh (cofiring)."
    )
    cofiring_rows: int = Field(
        default=16_384, ge=256, description="Most recent rows on which firing is counted in a refresh (cofiring)."
    )
    num_partners: int = Field(
        default=8, gt=0, description="Best partners that are remembered for every latent (cofiring)."
    )
    legacy_correlated_pairs: int = Field(
        default=0, ge=0, description="With legacy_seed: the first pairs of latents have prior means +s, +s."
    )
    legacy_anticorrelated_pairs: int = Field(
        default=0, ge=0, description="With legacy_seed: the next pairs of latents have prior means +s, -s."
    )
    legacy_prior_mean: float = Field(default=1.0, ge=0, description="With legacy_seed: s.")


@register("vsae_mix")
class VsaeMix(VsaeSpikeSlab, LegacySeedSae):
    """``vsae_spike_slab`` with a prior that knows which latents fire together, or take turns.

    The gates ``g`` of a set have the joint prior ``(1 - ε) p_structured(g) + ε Π Bernoulli(g_i; α)``. In a correlated
    set all are on with probability ``α``, or none; in an anticorrelated one exactly one is on, each with probability
    ``α``, or none. Latents in no set, and the values of latents that are on, have the prior of ``vsae_spike_slab``. The
    divergence is exact (:mod:`~vsae_search.saes._presence`).

    Which latents form a set is read off the firing of the code on recent rows, every ``refresh_fraction`` of training
    until ``freeze_fraction``: latents have no identity before they are trained, so a set fixed by index would tie
    arbitrary ones. Pairs are scored (phi coefficient; share of missing joint firings), scores averaged over refreshes,
    and sets grown greedily. ``sets_from: oracle`` replaces this by the true sets of a toy subject, which separates
    whether the prior helps from whether sets are found.

    Attributes:
        set_members: Latents of each set [S, M], filled up with -1.
        set_kinds: 0 for a correlated, 1 for an anticorrelated set, -1 for none [S].
    """

    Config: ClassVar[type[SaeConfig]] = VsaeMixConfig
    config: VsaeMixConfig
    set_members: Tensor
    set_kinds: Tensor
    recent_rows: Tensor
    rows_seen: Tensor
    refreshes: Tensor
    partner_index: Tensor
    partner_score: Tensor

    def build(self) -> None:
        """Add sets (stored) and what they are learned from (kept in checkpoints only)."""
        super().build()
        config = self.config
        num_sets = max(1, config.d_sae // 2)
        self.register_buffer("set_members", torch.full((num_sets, config.set_size), -1))
        self.register_buffer("set_kinds", torch.full((num_sets,), -1))
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.long), persistent=False)
        if self._learns_sets:
            partners = Partners.none(config.d_sae, config.num_partners)
            self.register_buffer("recent_rows", torch.zeros(config.cofiring_rows, config.d_in), persistent=False)
            self.register_buffer("rows_seen", torch.zeros((), dtype=torch.long), persistent=False)
            self.register_buffer("partner_index", partners.latent, persistent=False)
            self.register_buffer("partner_score", partners.score, persistent=False)
        self._truth: tuple[Tensor, tuple[LatentSet, ...]] | None = None
        self._step: tuple[Tensor, float] | None = None
        self._num_refreshes: int | None = 0
        self._groups: list[tuple[str, Tensor]] | None = None
        self.register_load_state_dict_post_hook(_forget_host_copies)  # type: ignore[no-untyped-call]  # torch's own
        self.build_legacy(learn_sigma=config.learn_sigma)

    @property
    def _learns_sets(self) -> bool:
        return self.config.sets_from == "cofiring" and not self.config.legacy_seed

    # -- code and objective -----------------------------------------------------------------------------------------

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F]: as ``vsae_spike_slab``; with ``legacy_seed``, which has no gates, the posterior mean."""
        return self.preactivations(x_BD).relu() if self.config.legacy_seed else super().encode(x_BD)

    def posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor]:
        """Moments under the joint prior (the part of a set is shared equally by its latents), and which fired."""
        moments, fired_F, logit_BF = self.gated_posterior(x_BD)
        return moments._replace(kl_F=self._with_sets(moments.kl_F, logit_BF)), fired_F

    def _with_sets(self, kl_F: Tensor, logit_BF: Tensor) -> Tensor:
        for kind, members_SM in self._set_groups(logit_BF.device):
            members_BE = at_least_float32(logit_BF.index_select(1, members_SM.flatten()))
            logit_BSM = members_BE.reshape(len(logit_BF), *members_SM.shape)
            extra_S = structure_correction(logit_BSM, kind, self.config.alpha, self.config.smoothing).mean(0)
            share_SM = (extra_S / members_SM.shape[1])[:, None].expand(members_SM.shape)
            kl_F = kl_F.index_add(0, members_SM.flatten(), share_SM.flatten())
        return kl_F

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """As every variational architecture; the batch is kept until the step is done, to learn sets from."""
        if self.config.legacy_seed:
            return self.legacy_loss(x_BD, progress)
        if torch.is_grad_enabled():
            self._step = (x_BD.detach(), progress)
        return super().loss(x_BD, progress)

    def legacy_divergence(self, mu_BF: Tensor, log_variance_BF: Tensor) -> Tensor:
        """Mean over the batch of the divergence from independent Gaussians with shifted means."""
        return shifted_divergence(mu_BF, log_variance_BF, self.legacy_prior_means().to(mu_BF)).mean()

    def legacy_prior_means(self) -> Tensor:
        """Prior means with ``legacy_seed`` [F]: by index, ``+s`` for correlated pairs, then ``+s, -s``, else 0."""
        correlated, anticorrelated = self.config.legacy_correlated_pairs, self.config.legacy_anticorrelated_pairs
        signs = [1.0] * (2 * correlated) + [1.0, -1.0] * anticorrelated
        means_F = torch.zeros(self.config.d_sae)
        means_F[: len(signs)] = self.config.legacy_prior_mean * torch.tensor(signs)[: self.config.d_sae]
        return means_F

    # -- sets -------------------------------------------------------------------------------------------------------

    def sets(self) -> list[LatentSet]:
        """The present sets; waits for the device."""
        rows, kinds = self.set_members.tolist(), self.set_kinds.tolist()
        return [
            LatentSet(SET_KINDS[kind], tuple(latent for latent in row if latent >= 0))
            for row, kind in zip(rows, kinds, strict=True)
            if kind >= 0
        ]

    @property
    def wants_truth(self) -> bool:
        """With ``sets_from: oracle``."""
        return self.config.sets_from == "oracle" and not self.config.legacy_seed

    def assign_sets(self, directions_MD: Tensor, sets: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Take the sets of the true features instead of learning them; ``sets_from: oracle`` needs this call.

        Every true feature is matched to the latent whose decoder row is closest to it, at once and again at every
        refresh while training goes on; the latents of a set of features form a set.

        A trial on a toy subject calls it before training, also when it resumes::

            groups = [(group.kind, group.members) for group in truth.sets]
            sae.assign_sets(torch.from_numpy(truth.directions_MD), groups)

        Args:
            directions_MD: True unit directions [M, D]; a row of zeros is matched to nothing.
            sets: Kind and features of each set. Kinds other than ``correlated`` and ``anticorrelated`` are passed over;
                a set of more than ``set_size`` features, or of more than can take turns (``1 / alpha``), is split.

        Raises:
            UserInputError: ``sets_from`` is not ``oracle``, or a feature does not exist.
        """
        if self.config.sets_from != "oracle":
            raise UserInputError(
                f"sets cannot be assigned with sets_from: {self.config.sets_from}", "set sets_from: oracle"
            )
        known = [LatentSet(kind, tuple(members)) for kind, members in sets if kind in SET_KINDS]
        if any(not 0 <= feature < len(directions_MD) for group in known for feature in group.members):
            raise UserInputError("a set names a feature that has no direction", f"there are {len(directions_MD)}")
        self._truth = (directions_MD.detach().cpu(), tuple(known))
        self._match_truth()

    def _match_truth(self) -> None:
        assert self._truth is not None, "sets have been assigned"
        directions_MD, groups = self._truth
        latents = match_directions(self.W_dec.detach().cpu(), directions_MD, _ORACLE_COSINE)
        found = []
        for group in groups:
            members = [latents[feature] for feature in group.members if feature in latents]
            size = largest_set(group.kind, self.config.alpha, self.config.set_size)
            parts = [members[start : start + size] for start in range(0, len(members), max(1, size))]
            found += [LatentSet(group.kind, tuple(part)) for part in parts if len(part) > 1]
        self._store_sets(found)

    def _store_sets(self, sets: list[LatentSet]) -> None:
        members_SM, kinds_S = torch.full_like(self.set_members, -1), torch.full_like(self.set_kinds, -1)
        for row, group in enumerate(sets):
            members_SM[row, : len(group.members)] = members_SM.new_tensor(group.members)
            kinds_S[row] = SET_KINDS.index(group.kind)
        self.set_members.copy_(members_SM)
        self.set_kinds.copy_(kinds_S)
        self._groups = None

    def _set_groups(self, device: torch.device) -> list[tuple[Any, Tensor]]:
        """Sets of equal kind and size as one index [S, M] each; read from the device once after every change."""
        if self._groups is None or any(members_SM.device != device for _, members_SM in self._groups):
            by_shape: dict[tuple[str, int], list[tuple[int, ...]]] = {}
            for group in self.sets():
                by_shape.setdefault((group.kind, len(group.members)), []).append(group.members)
            self._groups = [(kind, torch.tensor(rows, device=device)) for (kind, _), rows in sorted(by_shape.items())]
        return self._groups

    # -- learning sets ----------------------------------------------------------------------------------------------

    def before_step(self) -> None:
        """As the base.

        Raises:
            UserInputError: ``sets_from`` is ``oracle`` and :meth:`assign_sets` has not been called.
        """
        super().before_step()
        if self.config.sets_from == "oracle" and self._truth is None and not self.config.legacy_seed:
            raise UserInputError(
                f"{self.name} with sets_from: oracle was not given the true sets",
                "use a toy subject, whose true features are known, or sets_from: cofiring",
            )

    def after_step(self) -> None:
        """As the base; then remember the rows of the step, and refresh the sets where it is time."""
        super().after_step()
        if self._step is None:
            return
        x_BD, progress = self._step
        self._step = None
        if progress >= self.config.freeze_fraction or self.config.sets_from == "none":
            return
        if self._learns_sets:
            self._remember(x_BD)
        if self._num_refreshes is None:  # weights were loaded since the last step
            self._num_refreshes = int(self.refreshes)
        due = int(progress / self.config.refresh_fraction + 1e-9)
        if due > self._num_refreshes:
            self._num_refreshes = due
            self.refreshes.fill_(due)
            self.refresh_sets()

    def _remember(self, x_BD: Tensor) -> None:
        size = self.config.cofiring_rows
        rows_BD = x_BD[-size:]
        index_B = (self.rows_seen + torch.arange(len(rows_BD), device=rows_BD.device)) % size
        self.recent_rows.index_copy_(0, index_B, rows_BD.to(self.recent_rows.dtype))
        self.rows_seen += len(rows_BD)

    @torch.no_grad()
    def refresh_sets(self) -> None:
        """Form the sets anew, from the firing of the code on recent rows or from the assigned truth; waits."""
        if not self._learns_sets:
            self._match_truth()
            return
        rows_ND = self.recent_rows[: int(self.rows_seen)]
        if len(rows_ND) == 0:
            return
        fires_NF = torch.cat([self.encode(chunk_BD) > 0 for chunk_BD in row_chunks(rows_ND, self.config.d_sae)])
        before = Partners(self.partner_index, self.partner_score.float())
        partners = update_partners(before, fires_NF, self.config.set_memory)
        self.partner_index.copy_(partners.latent)
        self.partner_score.copy_(partners.score)
        thresholds = (self.config.min_correlation, self.config.min_anticorrelation)
        self._store_sets(
            match_sets(partners, alpha=self.config.alpha, max_size=self.config.set_size, min_scores=thresholds)
        )

    # -- what the legacy objective changes, diagnostics -------------------------------------------------------------

    def resample_at(self) -> tuple[float, ...]:
        """As ``vsae_spike_slab``; never with ``legacy_seed``."""
        return () if self.config.legacy_seed else super().resample_at()

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As ``vsae_spike_slab``, and the latents have no partners any more."""
        super().replace_latents(index_N, direction_ND, alive_F)
        if self._learns_sets:
            self.partner_score[:, index_N] = -torch.inf
            self.partner_score.masked_fill_(torch.isin(self.partner_index, index_N), -torch.inf)

    @torch.no_grad()
    def calibrate(self, x_BD: Tensor) -> None:
        """Diagnostics of ``vsae_spike_slab`` on held-out scaled activations [B, D], and the numbers of sets."""
        if self.config.legacy_seed:
            self._diagnostics = self.legacy_metrics(x_BD)
            return
        super().calibrate(x_BD)
        sets = self.sets()
        for kind in SET_KINDS:
            self._diagnostics[f"{kind}_sets"] = float(sum(group.kind == kind for group in sets))
        self._diagnostics["latents_in_sets"] = float(sum(len(group.members) for group in sets))

    def canonical(self) -> CanonicalSae:
        """Folded inference form: that of ``vsae_spike_slab``; with ``legacy_seed`` a plain ReLU.

        Raises:
            UnsupportedExport: The gate has weights of its own.
        """
        if self.config.legacy_seed:
            return fold(self.W_enc, self.b_enc, self.W_dec, self.b_dec, subtract_b_dec=True)
        return super().canonical()


def _forget_host_copies(sae: VsaeMix, incompatible_keys: Any) -> None:
    """Sets and the count of refreshes are to be read again: other weights have been loaded."""
    del incompatible_keys
    sae._groups = None
    sae._num_refreshes = None
