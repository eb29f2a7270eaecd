"""Lets SAELens 6 load an autoencoder whose gate has weights of its own (architecture ``untied_gate``).

    import untied_gate_saelens  # the file beside cfg.json
    from sae_lens import SAE

    sae = SAE.load_from_disk("folder of cfg.json")

Code: ``max((x - b_dec) W_enc + b_enc, 0)`` where ``(x - b_dec) W_gate + b_gate > 0``, 0 elsewhere.
"""

from dataclasses import dataclass

import torch
from sae_lens import SAE, SAEConfig, register_sae_class
from torch import nn


@dataclass
class UntiedGateConfig(SAEConfig):
    """Configuration of :class:`UntiedGateSae`; nothing beyond what every SAE has."""

    @classmethod
    def architecture(cls) -> str:
        """Name in ``cfg.json``."""
        return "untied_gate"


class UntiedGateSae(SAE[UntiedGateConfig]):
    """One encoder says how strongly a latent fires, another one whether it does."""

    def initialize_weights(self) -> None:
        """Create the parameters; their values are loaded."""
        options = {"dtype": self.dtype, "device": self.device}
        d_in, d_sae = self.cfg.d_in, self.cfg.d_sae
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae, **options))
        self.b_enc = nn.Parameter(torch.zeros(d_sae, **options))
        self.W_gate = nn.Parameter(torch.zeros(d_in, d_sae, **options))
        self.b_gate = nn.Parameter(torch.zeros(d_sae, **options))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in, **options))
        self.b_dec = nn.Parameter(torch.zeros(d_in, **options))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code of activations."""
        sae_in = self.process_sae_in(x)
        pre = self.hook_sae_acts_pre(sae_in @ self.W_enc + self.b_enc)
        return self.hook_sae_acts_post(pre.relu() * (sae_in @ self.W_gate + self.b_gate > 0))

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Reconstruction of a code."""
        out = self.hook_sae_recons(feature_acts @ self.W_dec + self.b_dec)
        return self.reshape_fn_out(self.run_time_activation_norm_fn_out(out), self.d_head)

    def fold_W_dec_norm(self) -> None:
        """Decoder rows to norm 1; the gate is not in their units."""
        norms = self.W_dec.norm(dim=-1)
        self.W_dec.data /= norms[:, None]
        self.W_enc.data *= norms
        self.b_enc.data *= norms


register_sae_class("untied_gate", UntiedGateSae, UntiedGateConfig)
