"""What starting a model again at the hook saves, each time an autoencoder is evaluated.

Run by hand: ``python benchmarks/restart.py [--repeats 5] [--output benchmarks/results/restart.md]``.

A splice runs the model with a reconstruction in place of the activation and takes the losses of the fixed evaluation
sequences. Once by running the whole model, once by going on from what was kept at the hook; both with one thread, in
turn, in processor time, of which the least counts. Unembedding and losses, which both have in common, are timed by
themselves. GPT-2 small has its real shape and random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from vsae_search.subjects.language_model import losses
from vsae_search.subjects.language_model.bridge import BridgeCausalModel
from vsae_search.subjects.language_model.one_layer import OneLayerCausalModel
from vsae_search.subjects.language_model.splicing import Splicer, full_losses
from vsae_search.subjects.tiny_gelu_1l import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vsae_search.subjects.language_model.base import CausalModel

CONTEXT = 128
GPT2_HOOKS = ("blocks.6.hook_resid_pre", "blocks.6.hook_mlp_out", "blocks.11.hook_resid_pre", "blocks.11.hook_mlp_out")


@dataclass(frozen=True)
class Case:
    """One model and some of its hooks, on so many sequences."""

    label: str
    model: CausalModel
    hooks: Sequence[str]
    sequences: int


@dataclass(frozen=True)
class Times:
    """Seconds of processor time of one splice, and how far the losses of both ways are apart, in nats."""

    full: float
    restarted: float
    losses: float
    difference: float


def gpt2_small() -> BridgeCausalModel:
    """A model of GPT-2 small's shape with random weights, behind TransformerLens as in a sweep."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
        vocabulary = {"<|endoftext|>": 0, **{chr(33 + index): index + 1 for index in range(90)}}
        GPT2TokenizerFast(vocab=vocabulary, merges=[]).save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
    return BridgeCausalModel(bridge)


def measure(case: Case, hook: str, repeats: int) -> Times:
    """Time both ways on the same sequences and the same replacement."""
    model = case.model
    generator = np.random.default_rng(0)
    tokens_ST = generator.integers(1, model.d_vocab, (case.sequences, CONTEXT))
    kept_ST = np.ones(tokens_ST.shape, dtype=bool)
    kept_ST[:, 0] = False
    tokens, kept = torch.from_numpy(tokens_ST), torch.from_numpy(kept_ST)
    with torch.inference_mode():
        x_STD = model.activations(tokens, hook)
    xhat_STD = 0.9 * x_STD
    xhat_ND = xhat_STD[kept].numpy()
    splicer = Splicer(model, hook, tokens_ST, kept_ST, case.sequences)
    restarted_S = splicer.losses(xhat_ND).loss_S  # keeps what the next ones go on from
    full_S = full_losses(model, hook, tokens, kept, xhat_STD).numpy()
    with torch.inference_mode():
        final_STR = model.full(tokens, hook, lambda x: x)
    ways = {
        "full": lambda: full_losses(model, hook, tokens, kept, xhat_STD),
        "restarted": lambda: splicer.losses(xhat_ND),
        "losses": lambda: _losses(model, final_STR, tokens, kept),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(_processor_s(way))
    return Times(**{name: min(values) for name, values in found.items()}, difference=np.abs(full_S - restarted_S).max())


def _losses(model: CausalModel, final_STR: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor) -> None:
    with torch.inference_mode():
        losses.cross_entropy(model, final_STR, tokens, kept)


def _processor_s(action: Callable[[], object]) -> float:
    begun = time.process_time()
    action()
    return time.process_time() - begun


def table(rows: Sequence[tuple[Case, str, Times]], repeats: int) -> str:
    """The result as Markdown."""
    machine = f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores"
    lines = [
        "# Starting again at the hook",
        "",
        f"{machine}, one thread; least processor time of {repeats} runs in turn, sequences of {CONTEXT} tokens.",
        "Made by `python benchmarks/restart.py`.",
        "",
        "One splice of the evaluation set, which every trial does at every rung. *Losses* is what both ways have in",
        "common: unembedding and cross-entropy. *Model* is the rest, so what a restart can save.",
        "",
        "| model | hook | started again | tokens | whole model, ms | restarted, ms | of it losses, ms "
        "| saved of the splice | saved of the model | largest difference, nats |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, hook, times in rows:
        saved = 1 - times.restarted / times.full
        model = 1 - max(0.0, times.restarted - times.losses) / max(1e-9, times.full - times.losses)
        numbers = " | ".join(f"{1e3 * value:.0f}" for value in (times.full, times.restarted, times.losses))
        lines.append(
            f"| {case.label} | `{hook}` | {case.model.restart_of(hook)} | {case.sequences * CONTEXT} | {numbers} "
            f"| {saved:.0%} | {model:.0%} | {times.difference:.0e} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gpt2-sequences", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/restart.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [
        Case("tiny_gelu_1l", OneLayerCausalModel(load_model()), ("blocks.0.hook_mlp_out",), 32),
        Case("GPT-2 small's shape", gpt2_small(), GPT2_HOOKS, arguments.gpt2_sequences),
    ]
    rows = []
    for case in cases:
        for hook in case.hooks:
            rows.append((case, hook, measure(case, hook, arguments.repeats)))
            print(case.label, hook, rows[-1][2], flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(table(rows, arguments.repeats))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
