"""Weights, rows and coefficients that ``make_fixtures.py`` gives to every library, and how it writes a case."""

from __future__ import annotations

import json

import torch

D_IN, D_SAE, BATCH = 6, 10, 8
DEAD = {
    "many": [6, 7, 8, 9],  # more than the auxiliary loss may use, which is d_in / 2 = 3
    "few": [8, 9],
    "mixed": [1, 6, 7],  # latent 1 has negative pre-activations on some rows
}
L1, TANH, STEP, TARGET, PREACT = 0.7, 0.6, 0.4, 1.5, 0.3
K, TARGET_L0, BANDWIDTH, TANH_SCALE, ALPHA = 2, 4.0, 0.75, 4.0, 0.25
WIDTHS = [3, 5, 10]
THRESHOLD = 0.5
LONG_AGO = 1 << 40


def inputs():
    """Weights and rows. Latents 6 to 9 are always a little above 0 and hardly ever among the largest."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W_dec = torch.nn.functional.normalize(normal(D_SAE, D_IN), dim=1)
    W_enc = (W_dec.T + 0.2 * normal(D_IN, D_SAE)).mul(1000).round().div(1000)
    b_enc = (0.1 * normal(D_SAE) + 0.2).mul(1000).round().div(1000)
    W_enc[:, 6:] = (0.02 * normal(D_IN, 4)).mul(1000).round().div(1000)
    b_enc[6:] = torch.tensor([0.16, 0.19, 0.21, 0.24], dtype=torch.float64)
    values = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec}
    values["b_dec"] = (0.3 * normal(D_IN)).mul(1000).round().div(1000)
    values["norm"] = (0.5 + torch.rand(D_SAE, generator=generator, dtype=torch.float64)).mul(1000).round().div(1000)
    values["r_mag"] = (0.3 * normal(D_SAE)).mul(1000).round().div(1000)
    values["b_mag"] = (b_enc + 0.2 * normal(D_SAE)).mul(1000).round().div(1000)
    # exact in float32, which some libraries keep thresholds in; some are below half the bandwidth
    values["threshold"] = torch.tensor([5, 7, 4, 6, 8, 5, 3, 4, 2, 3], dtype=torch.float64) / 16
    values["x"] = normal(BATCH, D_IN).mul(1000).round().div(1000)
    values["x_second"] = normal(BATCH, D_IN).mul(1000).round().div(1000)
    return values


def free_decoder(values):
    """The decoder with rows of different norms."""
    return values["norm"][:, None] * values["W_dec"]


def dead_mask(name):
    """Latents called dead [F], bool."""
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    mask[DEAD[name]] = True
    return mask


def set_(parameters, values):
    """Give parameters the values of their names; a name that ends in .T is that of a transposed parameter."""
    for name, tensor in parameters.items():
        key = name.removesuffix(".T")
        tensor.data = (values[key].T if key != name else values[key]).clone().contiguous().to(tensor.dtype)


def record(code, reconstruction, terms, parameters, **extra):
    """One case of a fixture file."""
    gradients = {}
    for term, value in terms.items():
        found = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, materialize_grads=True)
        gradients[term] = {
            name.removesuffix(".T"): (gradient.T if name.endswith(".T") else gradient).tolist()
            for name, gradient in zip(parameters, found, strict=True)
        }
    losses = {name: value.item() for name, value in terms.items()}
    outputs = {"code": code.tolist(), "reconstruction": reconstruction.tolist()}
    return {**outputs, "losses": losses, "gradients": gradients, **extra}


def sum_mse(reconstruction, x):
    """Squared error summed over dimensions, mean over rows."""
    return (reconstruction - x).square().sum(-1).mean()


def render(value, depth=0):
    """JSON with one line for each list, so that a change is one line."""
    if not isinstance(value, dict):
        return json.dumps(value)
    pad = "  " * (depth + 1)
    lines = [f"{pad}{json.dumps(key)}: {render(item, depth + 1)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"
