"""Training of the toy model of superposition: x' = ReLU(W^T h + b), with h = W x or h = ReLU(W x).

The loss is the mean over samples and features of I_i (x_i - x'_i)^2. The gradients are written out (five matrix
products a step); the tests compare them with automatic differentiation.

Reference: Elhage et al., "Toy Models of Superposition", 2022.

Shapes: B samples, D hidden dimensions, M features.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from vsae_search.errors import Diverged
from vsae_search.subjects.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vsae_search.space import ToyModelSubject
    from vsae_search.subjects.features import Features

_CHUNK_VALUES = 2**21  # about how many numbers are drawn at a time; many batches, because memory is cheaper in bulk


@dataclass(frozen=True, eq=False)
class TrainedToyModel:
    """A trained toy model.

    Attributes:
        W_DM: Embedding and, transposed, read-out; float32.
        b_M: Bias of the read-out, float32.
        loss_curve: Training loss at about a hundred evenly spaced steps.
    """

    W_DM: NDArray[np.float32]
    b_M: NDArray[np.float32]
    loss_curve: list[float]


class Gradients(NamedTuple):
    """Loss of a batch and its gradients."""

    loss: Tensor
    W_DM: Tensor
    b_M: Tensor


def loss_and_gradients(x_BM: Tensor, W_DM: Tensor, b_M: Tensor, importance_M: Tensor, *, neuron: bool) -> Gradients:
    """Return the toy-model loss of a batch and its gradients with respect to ``W_DM`` and ``b_M``.

    Args:
        x_BM: Feature values.
        W_DM: Embedding.
        b_M: Bias.
        importance_M: Weight of each feature.
        neuron: Whether the hidden layer has a ReLU.

    Returns:
        The loss (a scalar) and both gradients.
    """
    h_BD = x_BM @ W_DM.T
    if neuron:
        h_BD.relu_()
    output_BM = torch.addmm(b_M, h_BD, W_DM).relu_()
    weighted_BM = (output_BM - x_BM).mul_(importance_M)
    loss = torch.dot(weighted_BM.flatten(), (output_BM - x_BM).flatten()) / x_BM.numel()
    # The output is 0 exactly where the ReLU is closed; its derivative at 0 is taken as 0, as elsewhere.
    slope_BM = weighted_BM.mul_(output_BM > 0).mul_(2 / x_BM.numel())
    dh_BD = slope_BM @ W_DM.T
    if neuron:
        dh_BD.mul_(h_BD > 0)
    dW_DM = torch.addmm(h_BD.T @ slope_BM, dh_BD.T, x_BM)
    return Gradients(loss, dW_DM, slope_BM.sum(dim=0))


def train_toy_model(spec: ToyModelSubject, features: Features, fingerprint: str) -> TrainedToyModel:
    """Train a toy model; the same arguments on the same machine give the same bits.

    Xavier-normal W, b = 0, Adam with a learning rate that decays to 0 along a cosine, one thread (at these shapes
    more threads only cost time, and the sums would depend on their number).

    Args:
        spec: Width, kind, steps, batch size and learning rate.
        features: What the data is drawn from.
        fingerprint: Digest of everything above; it seeds the initialisation and the data.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    deviation = math.sqrt(2 / (spec.d_hidden + features.count))
    start_DM = stream(fingerprint, "initial weights", 0).standard_normal((spec.d_hidden, features.count))
    W_DM = torch.from_numpy((deviation * start_DM).astype(np.float32))
    b_M = torch.zeros(features.count)
    importance_M = torch.from_numpy(features.importance_M.astype(np.float32))
    optimizer = torch.optim.Adam([W_DM, b_M], lr=spec.lr, fused=True)
    every, curve = max(1, spec.steps // 100), []
    with _one_thread(), torch.no_grad():
        for step, x_BM in enumerate(_batches(spec, features, fingerprint)):
            loss, W_DM.grad, b_M.grad = loss_and_gradients(x_BM, W_DM, b_M, importance_M, neuron=spec.model == "neuron")
            optimizer.param_groups[0]["lr"] = spec.lr * 0.5 * (1 + math.cos(math.pi * step / spec.steps))
            optimizer.step()
            if step % every == 0 or step == spec.steps - 1:
                curve.append(float(loss))
    if not (np.isfinite(curve).all() and torch.isfinite(W_DM).all() and torch.isfinite(b_M).all()):
        raise Diverged(
            f"the toy model diverged (learning rate {spec.lr:g}, {spec.steps} steps)",
            "Lower subject.lr, for example to 1e-3.",
        )
    return TrainedToyModel(W_DM.numpy(), b_M.numpy(), curve)


def _batches(spec: ToyModelSubject, features: Features, fingerprint: str) -> Iterator[Tensor]:
    """Yield ``spec.steps`` batches, drawing several at a time."""
    together = max(1, _CHUNK_VALUES // (spec.batch_size * features.count))
    for index, start in enumerate(range(0, spec.steps, together)):
        count = min(together, spec.steps - start)
        generator = stream(fingerprint, "toy model training", index)
        chunk_NM = torch.from_numpy(features.sample(generator, count * spec.batch_size))
        yield from torch.split(chunk_NM, spec.batch_size)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, and restore the number of threads afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
