"""Sweep directories as a sweep leaves them, with autoencoders that need no training, and material made from arrays."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from vsae_search import saes
from vsae_search.analysis.cosines import unit_rows
from vsae_search.analysis.material import Dictionary, Material, Request
from vsae_search.analysis.reading import read
from vsae_search.search import SweepRecord, TrialRecord
from vsae_search.space import SearchSpace
from vsae_search.subjects import Rows

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "' onmouseover='alert(4)",
    "<svg/onload=alert(5)>",
    "&lt;b&gt; & </mark></span>",
)
DIRECTIONS = {"type": "directions", "d_in": 8, "features": {"count": 12, "probability": 0.1}}


@functools.cache
def hostile_text() -> str:
    """A pattern of text files that are full of markup."""
    folder = tempfile.TemporaryDirectory(prefix="vsae-text-")
    hostile_text.folder = folder
    generator = np.random.default_rng(0)
    for index in range(120):
        words = [str(generator.choice(HOSTILE)) + f" word{generator.integers(9)}\n" for _ in range(60)]
        (Path(folder.name) / f"{index:03}.txt").write_text("".join(words))
    return f"{folder.name}/*.txt"


def language_model() -> dict[str, Any]:
    text = {"source": "files", "paths": [hostile_text()]}
    return {
        "type": "language_model",
        "model": "tiny_gelu_1l",
        "hook": "blocks.0.hook_mlp_out",
        "context_length": 32,
        "text": text,
    }


def write_sweep(root: Path, name: str, subject: dict[str, Any], trained: dict[str, Any], **changes: Any) -> Path:
    """A sweep directory.

    Args:
        root: Where the sweep goes.
        name: Its name.
        subject: The subject section of its search space.
        trained: Autoencoders by uid, or (autoencoder, L0, delta-CE); None for a trial that left no weights.
        changes: Fields of its record.
    """
    space = SearchSpace.model_validate(
        {
            "name": name,
            "subject": subject,
            "activations": {"num_tokens": 2048, "evaluation_tokens": 512, "calibration_tokens": 256},
            "training": {"num_tokens": 2048, "batch_size": 128},
            "architectures": {"topk": {"d_sae": 16, "k": 2}},
        }
    )
    directory = root / name
    for number, (uid, entry) in enumerate(trained.items()):
        sae, l0, delta_ce = entry if isinstance(entry, tuple) else (entry, 4.0 + number, 0.5 - number / 10)
        folder = directory / "trials" / uid
        folder.mkdir(parents=True)
        metrics = {"l0": l0, "delta_ce": delta_ce, "fvu": 0.25, "ce_score_zero": 0.9}
        fields = {"architecture": "topk", "number": number, "params": {"k": 2}, "seed": 0}
        if sae is None:
            record = TrialRecord(uid=uid, state="diverged", **fields)
        else:
            record = TrialRecord(uid=uid, state="completed", metrics=metrics, **fields)
            saes.save(sae, folder)
        (folder / "record.json").write_text(record.model_dump_json())
    values = {"digest": "0" * 64, "seed": 0, "status": "completed", "bank": {"scale": 1.5}} | changes
    record = SweepRecord(name=name, space=space.model_dump(mode="json"), **values)
    (directory / "sweep.json").write_text(record.model_dump_json())
    return directory


def write_density(directory: Path, uid: str, density_F: np.ndarray) -> None:
    save_file({"density": np.asarray(density_F)}, directory / "trials" / uid / "arrays.safetensors")


def topk(d_in: int = 8, d_sae: int = 16, k: int = 2, seed: int = 0) -> saes.SparseAutoencoder:
    sae = saes.create("topk", d_in=d_in, d_sae=d_sae, k=k, seed=seed)
    sae.initialised = True
    return sae


def sparse_rows(d_in: int = 8, num_rows: int = 600, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    return Rows((generator.standard_normal((num_rows, d_in)) * generator.random((num_rows, 1))).astype(np.float32))


def dictionary(W_FD: Any, name: str = "s/u", alive: Any = None) -> Dictionary:
    unit_FD, norm_F = unit_rows(W_FD)
    return Dictionary(name, len(norm_F), unit_FD, norm_F, np.arange(len(norm_F)) if alive is None else np.array(alive))


def material(
    sae: saes.SparseAutoencoder,
    rows: Rows,
    *,
    subject: Any = None,
    others: tuple[Dictionary, ...] = (),
    features: tuple[int, ...] = (0, 1),
    seed: int = 0,
    **reading: Any,
) -> Material:
    """What analyses work with, without a sweep."""
    subject = subject or SimpleNamespace(loss_name="loss", loss_unit="", d_in=rows.x_ND.shape[1], fingerprint="f")
    own = dictionary(sae.W_dec.detach().numpy())
    trial = TrialRecord(uid="u", architecture="topk", number=0, params={}, seed=0, state="completed")
    sweep = SimpleNamespace(name="s", bank={"scale": 1.0}, subject={})
    request: Any = Request(SimpleNamespace(trial=trial, sweep=sweep, name="s/u"), seed=seed)
    align_F = torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec, dim=1).detach().numpy()
    found = read(sae, rows, scale=1.0, subject=subject, **reading)
    return Material(request, subject, None, found, own, others, align_F, features, "as asked for", ())
