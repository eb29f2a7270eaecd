"""One full training step of every library, on the same batch: ours, SAELens, dictionary_learning and sparsify.

Each function below returns a callable that makes one optimiser step. Peers are driven through their public step and
configured as their own documentation trains that architecture.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

PEERS = ("saelens", "dictionary_learning", "sparsify")
OWN_DENSE = "own dense path"
WITHOUT_PEERS = ("topk_ridge", "vsae_topk")
"""Architectures that no peer has; their sparse step is compared with their own dense one."""
SPARSE_SHARE = 0.015
"""Share of firing entries in the cases called sparse."""


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        architecture: ``relu``, ``topk``, ``batch_topk``, ``jumprelu``, ``gated``, ``topk_ridge`` or ``vsae_topk``.
        sparse: Whether biases are set so that 1.5 % of a thresholded code fires, instead of half as at the start.
        dead: Share of latents that count as dead, so that the auxiliary loss is at work.
        d_in: Width of the activations.
        d_sae: Number of latents.
        batch: Rows per step.
        k: Latents per token where that is fixed.
        device: Where to train.
        dtype: Type of weights and activations.
        params: Further hyper-parameters of ours, and what to call them in the tables.
    """

    architecture: str
    sparse: bool
    dead: float
    d_in: int
    d_sae: int
    batch: int
    k: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    params: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Name in the tables."""
        extra = " (1.5 % dense code)" if self.sparse else " (half of the latents dead)" if self.dead else ""
        return self.architecture + extra + "".join(f", {name}: {value}" for name, value in self.params)


Step = "Callable[[Tensor], None]"


def runners(case: Case) -> list[str]:
    """Libraries that have the architecture of a case."""
    if case.architecture in WITHOUT_PEERS:
        return ["ours", OWN_DENSE]
    if case.dead:
        return ["ours", *PEERS]
    return ["ours", *(peer for peer in PEERS if peer != "sparsify" or case.architecture == "topk")]


def build(name: str, case: Case, x_BD: Tensor) -> Callable[[Tensor], None]:
    """The step of a library; weights are seeded, so that every call gives the same."""
    torch.manual_seed(0)
    makers = {
        "ours": _ours,
        OWN_DENSE: _ours_dense,
        "saelens": _saelens,
        "dictionary_learning": _dictionary_learning,
        "sparsify": _sparsify,
    }
    return makers[name](case, x_BD)


@torch.no_grad()
def _make_sparse(x_BD: Tensor, W_enc_DF: Tensor, *biases: Tensor) -> None:
    """Set biases so that a share of 1.5 % of the pre-activations is positive."""
    pre_BF = x_BD[:256] @ W_enc_DF
    largest = pre_BF.flatten().float().topk(int(SPARSE_SHARE * pre_BF.numel())).values
    for bias_F in biases:
        bias_F.fill_(-largest[-1].item())


@torch.no_grad()
def _silence(case: Case, bias_F: Tensor) -> Tensor:
    """Mark a share of the latents dead [F] (bool) and keep them from firing."""
    dead_F = torch.arange(case.d_sae, device=case.device) < case.dead * case.d_sae
    bias_F[dead_F] = -100.0
    return dead_F


def _ours(case: Case, x_BD: Tensor) -> Callable[[Tensor], None]:
    from vsae_search import saes
    from vsae_search.training.dead import DeadTracker
    from vsae_search.training.meter import Meter
    from vsae_search.training.optimiser import build_adam, clip_gradients_, trainable
    from vsae_search.training.schedule import REPORT_STEPS

    params: dict[str, Any] = dict(case.params) | ({"k": case.k} if "topk" in case.architecture else {})
    sae = saes.create(case.architecture, d_in=case.d_in, d_sae=case.d_sae, lr=1e-5, **params)
    sae = sae.to(case.device, case.dtype)
    sae.initialise(x_BD)
    if case.sparse:
        _make_sparse(x_BD, sae.W_enc, *[p for name, p in sae.named_parameters() if name in {"b_enc", "b_mag"}])
    dead_F = _silence(case, sae.b_enc)
    sae.mark_dead(dead_F)
    parameters, optimiser = list(trainable(sae).values()), build_adam(sae)
    tracker, meter = DeadTracker(case.d_sae, window=1 << 30, device=case.device), Meter(case.architecture)
    done = 0

    def step(x_BD: Tensor) -> None:
        nonlocal done
        loss = sae.loss(x_BD, 0.5)
        loss.total.backward()
        sae.before_step()
        grad_norm = clip_gradients_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        sae.after_step()
        tracker.update(loss.fired_F, len(x_BD))
        meter.add(loss, grad_norm)
        done += 1
        if done % REPORT_STEPS == 0:
            meter.flush(done)
            sae.mark_dead(dead_F)

    return step


def _ours_dense(case: Case, x_BD: Tensor) -> Callable[[Tensor], None]:
    """The same step, with nothing treated as sparse."""
    from vsae_search.saes import _sparse_select

    ours = _ours(case, x_BD)

    def step(x_BD: Tensor) -> None:
        least, _sparse_select.MIN_D_SAE = _sparse_select.MIN_D_SAE, 1 << 62
        ours(x_BD)
        _sparse_select.MIN_D_SAE = least

    return step


def _saelens_config(case: Case) -> tuple[Any, Any]:
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "relu": (StandardTrainingSAE, StandardTrainingSAEConfig, {}),
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": case.k}),
        "batch_topk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": case.k}),
        "jumprelu": (
            JumpReLUTrainingSAE,
            JumpReLUTrainingSAEConfig,
            {"jumprelu_sparsity_loss_mode": "tanh", "jumprelu_ste_to_input": True},
        ),
        "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {}),
    }
    kind, config, params = kinds[case.architecture]
    dtype = str(case.dtype).removeprefix("torch.")
    return kind, config(d_in=case.d_in, d_sae=case.d_sae, dtype=dtype, device=case.device, **params)


def _saelens(case: Case, x_BD: Tensor) -> Callable[[Tensor], None]:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    kind, config = _saelens_config(case)
    sae = kind(config)
    if case.sparse:
        _make_sparse(
            x_BD, sae.W_enc, *[p for name, p in sae.named_parameters() if name in {"b_enc", "b_gate", "b_mag"}]
        )
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=1 << 40,
            train_batch_size_samples=case.batch,
            lr=1e-5,
            lr_end=1e-6,
            device=case.device,
        ),
        sae,
        iter(()),
    )
    if case.dead:  # counted in steps without firing
        trainer.n_forward_passes_since_fired[_silence(case, sae.b_enc)] = 1e9

    def step(x_BD: Tensor) -> None:
        trainer.step(x_BD)
        trainer.n_training_steps += 1

    return step


def _dictionary_learning(case: Case, x_BD: Tensor) -> Callable[[Tensor], None]:
    # the package imports this for collecting activations, which is not measured here
    sys.modules.setdefault("nnsight", types.SimpleNamespace(LanguageModel=object))  # type: ignore[arg-type]
    from dictionary_learning import trainers

    kinds = {
        "relu": trainers.StandardTrainer,
        "topk": trainers.TopKTrainer,
        "batch_topk": trainers.BatchTopKTrainer,
        "jumprelu": trainers.JumpReluTrainer,
        "gated": trainers.GatedSAETrainer,
    }
    params: dict[str, Any] = {"k": case.k} if "topk" in case.architecture else {}
    trainer = kinds[case.architecture](
        steps=1 << 30,
        activation_dim=case.d_in,
        dict_size=case.d_sae,
        layer=0,
        lm_name="",
        lr=1e-5,
        device=case.device,
        **params,
    )
    trainer.ae.to(case.dtype)
    if case.sparse:
        parameters = dict(trainer.ae.named_parameters())
        weight_DF = parameters["W_enc"] if "W_enc" in parameters else parameters["encoder.weight"].T
        names = {"b_enc", "encoder.bias", "gate_bias", "mag_bias"} & set(parameters)
        _make_sparse(x_BD, weight_DF, *[parameters[name] for name in names])
    if case.dead:
        trainer.num_tokens_since_fired[_silence(case, trainer.ae.encoder.bias)] = 1 << 40
    done = 0

    def step(x_BD: Tensor) -> None:
        nonlocal done
        done += 1  # step 0 would be spent on the geometric median
        trainer.update(done, x_BD)

    return step


def _sparsify(case: Case, x_BD: Tensor) -> Callable[[Tensor], None]:
    from sparsify import SparseCoder, SparseCoderConfig

    del x_BD
    config = SparseCoderConfig(num_latents=case.d_sae, k=case.k)
    sae = SparseCoder(case.d_in, config, device=case.device, dtype=case.dtype)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-5)
    dead_F = _silence(case, sae.encoder.bias) if case.dead else None

    def step(x_BD: Tensor) -> None:
        out = sae(x_BD, dead_mask=dead_F)
        (out.fvu + out.auxk_loss / 32).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step
