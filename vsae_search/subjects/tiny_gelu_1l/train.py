"""Training of the built-in model: ``python -m vsae_search.subjects.tiny_gelu_1l.train --help``.

The model learns from the ``train`` split of the standard library's source; no sweep evaluates on that split. The
embeddings start small, and what attention writes to the residual stream starts small and learns slowly. The LayerNorms
in front of attention and MLP undo the scale, so that neither notices; but past the MLP the stream then holds little but
the MLP's output, and the prediction has to come from there. Without this the MLP of so small a model is a correction of
half a nat to what embedding and attention predict, and delta-CE would measure little.

Shapes: S sequences, T positions, N tokens of a stream.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import logging
import math
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vsae_search.errors import Diverged
from vsae_search.subjects.text.packing import Packer
from vsae_search.subjects.text.splits import split_of
from vsae_search.subjects.tiny_gelu_1l.corpus import standard_library_documents
from vsae_search.subjects.tiny_gelu_1l.files import FOLDER, load_model, save
from vsae_search.subjects.tiny_gelu_1l.measure import measure, next_token_losses
from vsae_search.subjects.tiny_gelu_1l.model import MLP_OUT, OneLayerConfig, OneLayerModel
from vsae_search.subjects.tiny_gelu_1l.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from vsae_search.subjects.base import Split
    from vsae_search.subjects.text.base import Tokenizer

_LOG = logging.getLogger(__name__)
_LOG_EVERY = 200
_MEASURED_SEQUENCES = 1000
_NOTE = (
    "The library of another version of Python differs a little. A held-out file that changed between the versions is"
    " drawn into a split anew, and when there is text like it among the training text its loss comes out too low."
)
_SLOW = ("W_O", "b_O")


@dataclass(frozen=True)
class Recipe:
    """How the model is trained.

    Attributes:
        architecture: Sizes of the model.
        steps: Optimiser steps.
        batch_size: Sequences per step, each of the model's longest context.
        lr: Highest learning rate of AdamW; a linear warm-up leads to it, a linear decay from it to 0.
        slow: Factor on the learning rate of what attention writes with (W_O and b_O).
        weight_decay: Of the matrices.
        beta2: Of AdamW (beta1 is 0.9).
        warmup_steps: Length of the warm-up.
        decay_fraction: Share of the steps in which the learning rate decays.
        grad_clip: Largest norm of the gradient.
        bf16: Whether matrix products are computed in bfloat16 while training.
        seed: Of initialisation and order of the text.
    """

    architecture: OneLayerConfig = field(default_factory=OneLayerConfig)
    steps: int = 20_000
    batch_size: int = 8
    lr: float = 4e-3
    slow: float = 0.1
    weight_decay: float = 0.1
    beta2: float = 0.98
    warmup_steps: int = 100
    decay_fraction: float = 0.7
    grad_clip: float = 1.0
    bf16: bool = True
    seed: int = 0


def train(folder: Path, recipe: Recipe | None = None) -> dict[str, Any]:
    """Train tokenizer and model on the standard library, measure them on held-out files, and store them.

    Args:
        folder: Where weights, tokenizer and card are written.
        recipe: How to train.

    Returns:
        What the card says about training, corpus and results.

    Raises:
        EnvironmentNotReady: This Python comes without the source of its library.
        Diverged: The loss became infinite or not a number.
    """
    recipe = recipe or Recipe()
    documents = list(standard_library_documents())
    tokenizer = train_tokenizer((text for text in documents if split_of(text) == "train"), recipe.architecture.d_vocab)
    sequences = pack(documents, tokenizer, recipe.architecture.n_ctx)
    begun = time.perf_counter()
    model = initialise(recipe, sequences["train"])
    with _one_thread():
        training_loss = fit(model, sequences["train"], recipe)
    facts = {
        "training": {
            **dataclasses.asdict(recipe),
            "num_tokens": recipe.steps * recipe.batch_size * (recipe.architecture.n_ctx - 1),
            "final_training_loss": round(training_loss, 4),
            "wall_s": round(time.perf_counter() - begun),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "command": "python -m vsae_search.subjects.tiny_gelu_1l.train",
        },
        "corpus": describe_corpus(documents, sequences),
    }
    save(model, tokenizer, facts, folder)
    facts["results"] = results(load_model(folder), sequences)  # of the weights as stored
    save(model, tokenizer, facts, folder)
    return facts


def pack(documents: Sequence[str], tokenizer: Tokenizer, context_length: int) -> dict[Split, Tensor]:
    """Return the sequences of each split, [S, T], with BOS first, in the order of the documents."""
    packer = Packer(tokenizer, context_length, {})
    packer.add(documents)
    return {split: torch.from_numpy(array_ST) for split, array_ST in packer.take()[0].items()}


def initialise(recipe: Recipe, tokens_ST: Tensor) -> OneLayerModel:
    """Return an untrained model: normal matrices, biases 0 but for that of the unembedding.

    Args:
        recipe: Sizes and seed.
        tokens_ST: Training text; the model starts out predicting each token as often as it occurs there.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    config = recipe.architecture
    fan_in = {"W_out": config.d_mlp}
    small = {"W_E": 0.05, "W_pos": 0.05, "W_O": 0.03 * config.d_model**-0.5, "W_U": 0.02}
    model = OneLayerModel(config)
    for name, parameter in model.named_parameters():
        kind = name.rpartition(".")[2]
        if kind.startswith("W_"):
            deviation = small.get(kind, fan_in.get(kind, config.d_model) ** -0.5)
            nn.init.normal_(parameter, std=deviation, generator=generator)
    count_V = torch.bincount(tokens_ST[:, 1:].flatten(), minlength=config.d_vocab) + 1.0
    model.unembed.b_U.data.copy_((count_V / count_V.sum()).log())
    return model


def fit(
    model: OneLayerModel, tokens_ST: Tensor, recipe: Recipe, on_step: Callable[[float], None] | None = None
) -> float:
    """Train a model in place.

    Args:
        model: The model, initialised.
        tokens_ST: Packed sequences of the training split; they are cut anew, at other places, in every epoch.
        recipe: How to train.
        on_step: Receives the loss of each step.

    Returns:
        Mean training loss of the last tenth of the steps, in nats per token.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    optimizer = _optimizer(model, recipe)
    losses: list[float] = []
    for step, batch_ST in zip(range(recipe.steps), _batches(tokens_ST, recipe), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * recipe.lr * _schedule(step, recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            resid_STD = model.finish(model.start(batch_ST))
            loss = next_token_losses(model, resid_STD, batch_ST).mean()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise Diverged(f"the loss of the language model became {losses[-1]} at step {step}", "Lower --lr.")
        if on_step is not None:
            on_step(losses[-1])
        if (step + 1) % _LOG_EVERY == 0:
            _LOG.info("step %d of %d: loss %.3f", step + 1, recipe.steps, sum(losses[-_LOG_EVERY:]) / _LOG_EVERY)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def results(model: OneLayerModel, sequences: dict[Split, Tensor]) -> dict[str, Any]:
    """Measure a model on every split: about a thousand sequences from all over it."""
    measured: dict[str, Any] = {"unit": "nats per token", "hook": MLP_OUT}
    for split, tokens_ST in sequences.items():
        stride = max(1, len(tokens_ST) // _MEASURED_SEQUENCES)
        measured[split] = dataclasses.asdict(measure(model, tokens_ST[::stride], MLP_OUT))
    return measured


def describe_corpus(documents: Sequence[str], sequences: dict[Split, Tensor]) -> dict[str, Any]:
    """Return what identifies the text that a model was trained on."""
    state = hashlib.sha256()
    for text in documents:
        state.update(hashlib.sha256(text.encode()).digest())
    splits = [split_of(text) for text in documents]
    return {
        "source": "python_stdlib",
        "note": _NOTE,
        "sha256": state.hexdigest(),
        "characters": sum(map(len, documents)),
        "documents": {split: splits.count(split) for split in sequences},
        "sequences": {split: len(tokens_ST) for split, tokens_ST in sequences.items()},
    }


def _batches(tokens_ST: Tensor, recipe: Recipe) -> Iterator[Tensor]:
    """Yield batches without end; each epoch cuts the text at other places and shuffles the pieces."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    body = tokens_ST.shape[1] - 1
    stream_N, bos = tokens_ST[:, 1:].flatten(), tokens_ST[0, 0]
    assert len(stream_N) // body > recipe.batch_size, "less text than one batch"
    while True:
        offset = int(torch.randint(body, (1,), generator=generator))
        count = (len(stream_N) - offset) // body
        pieces_ST = stream_N[offset : offset + count * body].view(count, body)
        pieces_ST = torch.cat([bos.expand(count, 1), pieces_ST], dim=1)
        order = torch.randperm(count, generator=generator)
        for indices in torch.split(order[: count // recipe.batch_size * recipe.batch_size], recipe.batch_size):
            yield pieces_ST[indices]


def _optimizer(model: OneLayerModel, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with a group of its own for what learns slowly."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        kind = name.rpartition(".")[2]
        scale = recipe.slow if kind in _SLOW else 1.0
        groups.setdefault((scale, recipe.weight_decay if kind.startswith("W_") else 0.0), []).append(parameter)
    settings = [
        {"params": parameters, "scale": scale, "weight_decay": decay} for (scale, decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=recipe.lr, betas=(0.9, recipe.beta2), fused=True)


def _schedule(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step as a share of the highest."""
    decay_steps = max(1, round(recipe.decay_fraction * recipe.steps))
    return min(1.0, (step + 1) / recipe.warmup_steps, (recipe.steps - step) / decay_steps)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, so that sums do not depend on the machine's number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(prog="python -m vsae_search.subjects.tiny_gelu_1l.train", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for weights, tokenizer and card")
    for name in ("steps", "batch_size", "lr", "seed"):
        default = getattr(Recipe(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = options.pop("output")
    facts = train(folder, Recipe(**options))
    _LOG.info("held-out loss: %s", facts["results"]["evaluation"])


if __name__ == "__main__":
    main()
