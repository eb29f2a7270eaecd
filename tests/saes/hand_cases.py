"""Helpers of the tests of single architectures: weights set by hand, rows, and what a step costs."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vsae_search.saes as saes
from vsae_search.training.optimiser import build_adam


def identity(name, **params):
    """Two dimensions, two latents, identity weights, zero biases."""
    sae = saes.create(name, d_in=2, d_sae=2, **params)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.W_dec.copy_(torch.eye(2))
    return sae


def rows(num_rows, d_in, seed=0, dtype=torch.float32):
    return torch.randn(num_rows, d_in, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sparse_rows(num_rows, d_in, seed=0, num_features=12):
    """Rows made of few of ``num_features`` fixed directions each, scaled so that the mean of ‖x‖² is d_in."""
    directions = torch.nn.functional.normalize(rows(num_features, d_in, seed=77), dim=1)
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(num_rows, num_features, generator=generator)
    features *= torch.rand(num_rows, num_features, generator=generator) < 0.15
    x_BD = features @ directions
    return x_BD * (d_in / x_BD.square().sum(1).mean()).sqrt()


def set_rows(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values, dtype=parameter.dtype))


def train(sae, num_steps, *, between=None, draw=rows):
    """Real steps on fresh rows; ``between`` is called after each."""
    optimiser = build_adam(sae)
    for step in range(num_steps):
        sae.loss(draw(64, sae.config.d_in, seed=step), step / num_steps).total.backward()
        sae.before_step()
        optimiser.step()
        optimiser.zero_grad()
        sae.after_step()
        if between:
            between(step)


def gradients(sae, value):
    """Gradient of a scalar by parameter name; zeros where it does not arrive."""
    names, parameters = zip(*sae.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


def difference_quotients(function, parameter, width=1e-6):
    """Central differences of ``function()`` in every entry of a float64 parameter."""
    flat, slopes = parameter.data.view(-1), torch.zeros_like(parameter.data)
    for index in range(flat.numel()):
        start, values = float(flat[index]), []
        for shifted in (start + width, start - width):
            flat[index] = shifted
            values.append(function().item())
        flat[index] = start
        slopes.view(-1)[index] = (values[0] - values[1]) / (2 * width)
    return slopes


class CountMultiplications(TorchDispatchMode):
    """Scalar multiplications in matrix products."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in {"mm", "addmm", "addmm_"}:
            self.total += result.numel() * args[-2].shape[1]
        return result
