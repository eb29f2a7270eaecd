"""A class for dictionary_learning whose gate has weights of its own; it needs torch alone.

    from untied_gate_dictionary import UntiedGateAutoEncoder  # the file beside ae.pt

    ae = UntiedGateAutoEncoder.from_pretrained("ae.pt")

Code: ``max((x - b_dec) W_enc + b_enc, 0)`` where ``(x - b_dec) W_gate + b_gate > 0``, 0 elsewhere.
"""

import torch
from torch import nn


class UntiedGateAutoEncoder(nn.Module):
    """One encoder says how strongly a feature fires, another one whether it does."""

    def __init__(self, activation_dim: int, dict_size: int) -> None:
        super().__init__()
        self.activation_dim, self.dict_size = activation_dim, dict_size
        self.W_enc = nn.Parameter(torch.zeros(activation_dim, dict_size))
        self.b_enc = nn.Parameter(torch.zeros(dict_size))
        self.W_gate = nn.Parameter(torch.zeros(activation_dim, dict_size))
        self.b_gate = nn.Parameter(torch.zeros(dict_size))
        self.W_dec = nn.Parameter(torch.zeros(dict_size, activation_dim))
        self.b_dec = nn.Parameter(torch.zeros(activation_dim))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code of activations."""
        centred = x - self.b_dec
        return (centred @ self.W_enc + self.b_enc).relu() * (centred @ self.W_gate + self.b_gate > 0)

    def decode(self, f: torch.Tensor) -> torch.Tensor:
        """Reconstruction of a code."""
        return f @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor, output_features: bool = False) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Reconstruction of activations, with the code where it is asked for."""
        f = self.encode(x)
        return (self.decode(f), f) if output_features else self.decode(f)

    @classmethod
    def from_pretrained(cls, path: str, device: str | None = None) -> "UntiedGateAutoEncoder":
        """Read ``ae.pt``."""
        state = torch.load(path, map_location=device, weights_only=True)
        activation_dim, dict_size = state["W_enc"].shape
        ae = cls(activation_dim, dict_size)
        ae.load_state_dict(state)
        return ae.to(device) if device is not None else ae
