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
from vsae_search.space import ToyRecipe
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
        last_loss: Mean training loss of the last pass over the rows, or of the last tenth of the steps.
        snapshots: The weights during the training.
    """

    W_DM: NDArray[np.float32]
    b_M: NDArray[np.float32]
    loss_curve: list[float]
    last_loss: float = math.nan
    snapshots: tuple[Snapshot, ...] = ()


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The weights after a number of steps."""

    step: int
    W_DM: NDArray[np.float32]
    b_M: NDArray[np.float32]


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
    """Train the toy model of a subject; the same arguments on the same machine give the same bits.

    Xavier-normal W, b = 0, Adam with a learning rate that decays to 0 along a cosine.

    Args:
        spec: Width, kind, steps, batch size and learning rate.
        features: What the data is drawn from.
        fingerprint: Digest of everything above; it seeds the initialisation and the data.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    recipe = ToyRecipe(lr=spec.lr, batch_size=spec.batch_size, steps=spec.steps)
    try:
        return fit_toy_model(recipe, features, fingerprint, d_hidden=spec.d_hidden, neuron=spec.model == "neuron")
    except Diverged as error:
        raise Diverged(error.message, "Lower subject.lr, for example to 1e-3.") from None


def fit_toy_model(
    recipe: ToyRecipe, features: Features, fingerprint: str, *, d_hidden: int, neuron: bool, snapshots: int = 0
) -> TrainedToyModel:
    """Train a toy model by a recipe, on one thread: at these shapes more threads only cost time.

    Args:
        recipe: Optimiser, rows and initial weights.
        features: What the rows are drawn from.
        fingerprint: Seed of the initialisation and of the rows.
        d_hidden: Width of the hidden layer.
        neuron: Whether the hidden layer has a ReLU.
        snapshots: How often the weights are kept, evenly over the steps, the first and the last ones included.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    W_DM = torch.from_numpy(initial_weights(recipe, features.count, d_hidden, fingerprint))
    b_M = torch.zeros(features.count)
    importance_M = torch.from_numpy(features.importance_M.astype(np.float32))
    optimizer = torch.optim.Adam([W_DM, b_M], lr=recipe.lr, fused=True)
    every, curve, kept = max(1, recipe.steps // 100), [], _Snapshots(recipe.steps, snapshots)
    last_pass = recipe.steps - _steps_of_a_pass(recipe)
    last_loss = torch.zeros(())
    with _one_thread(), torch.no_grad():
        for step, x_BM in enumerate(_batches(recipe, features, fingerprint)):
            kept.look(step, W_DM, b_M)
            loss, W_DM.grad, b_M.grad = loss_and_gradients(x_BM, W_DM, b_M, importance_M, neuron=neuron)
            if recipe.lr_schedule == "cosine":
                optimizer.param_groups[0]["lr"] = recipe.lr * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
            optimizer.step()
            if step >= last_pass:
                last_loss += loss
            if step % every == 0 or step == recipe.steps - 1:
                curve.append(float(loss))
        kept.look(recipe.steps, W_DM, b_M)
    if not (np.isfinite(curve).all() and torch.isfinite(W_DM).all() and torch.isfinite(b_M).all()):
        raise Diverged(
            f"the toy model diverged (learning rate {recipe.lr:g}, {recipe.steps} steps)", "Lower its learning rate."
        )
    mean_loss = float(last_loss) / (recipe.steps - last_pass)
    return TrainedToyModel(W_DM.numpy(), b_M.numpy(), curve, mean_loss, tuple(kept.taken))


def initial_weights(recipe: ToyRecipe, count: int, d_hidden: int, fingerprint: str) -> NDArray[np.float32]:
    """Draw W [D, M], normal with the deviation of the recipe or that of Xavier."""
    deviation = recipe.initial_deviation or math.sqrt(2 / (d_hidden + count))
    start_DM = stream(fingerprint, "initial weights", 0).standard_normal((d_hidden, count))
    return np.asarray(deviation * start_DM, dtype=np.float32)


def _steps_of_a_pass(recipe: ToyRecipe) -> int:
    """Steps in one pass over a fixed set of rows; a tenth of all steps where every row is fresh."""
    one_pass = max(1, recipe.steps // 10) if recipe.num_rows is None else recipe.num_rows // recipe.batch_size
    return min(one_pass, recipe.steps)


class _Snapshots:
    """Keeps the weights at evenly spaced steps."""

    def __init__(self, steps: int, count: int) -> None:
        self._due = set(np.linspace(0, steps, count).round().astype(int).tolist()) if count else set()
        self.taken: list[Snapshot] = []

    def look(self, step: int, W_DM: Tensor, b_M: Tensor) -> None:
        """Take the weights after ``step`` steps, if that is one of the chosen ones."""
        if step in self._due:
            self.taken.append(Snapshot(step, W_DM.numpy().copy(), b_M.numpy().copy()))


def _batches(recipe: ToyRecipe, features: Features, fingerprint: str) -> Iterator[Tensor]:
    """Yield a batch for every step: of fresh rows, or of a fixed set of them in a new order on every pass."""
    if recipe.num_rows is None:
        yield from _fresh_batches(recipe, features, fingerprint)
        return
    rows_NM = torch.from_numpy(features.sample(stream(fingerprint, "toy model training", 0), recipe.num_rows))
    one_pass = _steps_of_a_pass(recipe)
    for index, start in enumerate(range(0, recipe.steps, one_pass)):
        order_N = torch.from_numpy(stream(fingerprint, "toy model order", index).permutation(recipe.num_rows))
        batches = torch.split(rows_NM[order_N], recipe.batch_size)
        yield from batches[: min(one_pass, recipe.steps - start)]


def _fresh_batches(recipe: ToyRecipe, features: Features, fingerprint: str) -> Iterator[Tensor]:
    """Yield batches, drawing several at a time."""
    together = max(1, _CHUNK_VALUES // (recipe.batch_size * features.count))
    for index, start in enumerate(range(0, recipe.steps, together)):
        count = min(together, recipe.steps - start)
        generator = stream(fingerprint, "toy model training", index)
        chunk_NM = torch.from_numpy(features.sample(generator, count * recipe.batch_size))
        yield from torch.split(chunk_NM, recipe.batch_size)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, and restore the number of threads afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
