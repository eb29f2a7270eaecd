"""Does SAELens measure of an exported autoencoder what this project measured of the original?

    python -m vsae_search sweep search_spaces/tiny_lm.yaml
    .venv/bin/python benchmarks/export_agreement.py tiny_lm

Every completed trial is exported to SAELens, loaded there with its own loader, and evaluated by its own ``run_evals``
on the evaluation sequences of the sweep, with the built-in language model as a ``HookedTransformer``. Both sides see
the same positions: the sequences in which every position but the first is explained. The first one holds the token
that begins a document, which both leave out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from vsae_search import saes
from vsae_search.evaluation import evaluate
from vsae_search.export import export_sweep
from vsae_search.export.imported import evaluation_rows
from vsae_search.search import load_sweep
from vsae_search.space import SearchSpace
from vsae_search.subjects import build_subject
from vsae_search.subjects.language_model.subject import LanguageModel
from vsae_search.subjects.tiny_gelu_1l.model import OneLayerConfig

if TYPE_CHECKING:
    from vsae_search.search import SweepRecord
    from vsae_search.subjects import Rows, Subject

Metrics = dict[str, dict[str, float]]
"""Numbers by trial and key."""
HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".venv-peers" / "bin" / "python"
PAIRS = {  # what is compared, here and in SAELens
    "L0": ("l0", "l0"),
    "explained variance": ("explained_variance", "explained_variance"),
    "cosine": ("cosine", "cossim"),
    "relative bias": ("relative_bias", "relative_reconstruction_bias"),
    "CE without SAE": ("ce_clean", "ce_loss_without_sae"),
    "CE with SAE": ("ce_spliced", "ce_loss_with_sae"),
    "delta-CE": ("delta_ce", "delta_ce"),
}


def whole_sequences(rows: Rows) -> Rows:
    """The rows of the sequences in which every position but the first is explained."""
    assert rows.kept_ST is not None
    assert rows.tokens_ST is not None
    whole_S = rows.kept_ST[:, 1:].all(axis=1)
    of_whole_N = np.repeat(whole_S, rows.kept_ST.sum(axis=1))
    return replace(rows, x_ND=rows.x_ND[of_whole_N], tokens_ST=rows.tokens_ST[whole_S], kept_ST=rows.kept_ST[whole_S])


def measured_here(directory: Path, rows: Rows, subject: Subject, sweep: SweepRecord, uids: list[str]) -> Metrics:
    """Our metrics of every trial on these rows."""
    baseline, found = subject.baseline(rows), Metrics()
    for uid in uids:
        done = evaluate(
            saes.load(directory / "trials" / uid),
            rows,
            scale=sweep.bank["scale"],
            subject=subject,
            baseline=baseline,
        )
        found[uid] = {**done.metrics, "explained_variance": 1 - done.metrics["fvu"]}
    return found


def measured_there(folder: Path, rows: Rows, subject: LanguageModel) -> dict[str, Any]:
    """What SAELens measures, in its own environment."""
    (folder / "model.json").write_text(json.dumps(asdict(OneLayerConfig())))
    weights = {name: tensor.float().contiguous() for name, tensor in subject.load().parameters()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    assert rows.tokens_ST is not None
    tokens_ST = torch.from_numpy(np.ascontiguousarray(rows.tokens_ST))
    safetensors.torch.save_file({"tokens": tokens_ST}, folder / "tokens.safetensors")
    subprocess.run([str(PEER), str(HERE / "export_agreement_peer.py"), str(folder)], check=True)
    found: dict[str, Any] = json.loads((folder / "peer.json").read_text())
    for metrics in found["metrics"].values():
        metrics["delta_ce"] = metrics["ce_loss_with_sae"] - metrics["ce_loss_without_sae"]
    return found


def table(ours: Metrics, theirs: dict[str, Any], rows: Rows) -> str:
    """Markdown: for every metric and trial both numbers, then the largest differences."""
    assert rows.tokens_ST is not None
    peer = theirs["metrics"]
    lines = [
        "# Exported autoencoders, evaluated by SAELens",
        "",
        f"SAELens {theirs['versions']['sae-lens']} with TransformerLens {theirs['versions']['transformer-lens']}: "
        f"`SAE.load_from_disk` and `run_evals` on {len(rows.tokens_ST)} sequences ({len(rows.x_ND)} positions), "
        "against the metrics of this project on the same positions. Each cell: here / there.",
        "",
        f"| trial | {' | '.join(PAIRS)} |",
        f"|---|{'---|' * len(PAIRS)}",
    ]
    for uid, metrics in ours.items():
        cells = [f"{metrics[a]:.6g} / {peer[uid][b]:.6g}" for a, b in PAIRS.values()]
        lines.append(f"| {uid} | {' | '.join(cells)} |")
    largest = {
        title: max(abs(metrics[a] - peer[uid][b]) for uid, metrics in ours.items()) for title, (a, b) in PAIRS.items()
    }
    lines += ["", "| metric | largest absolute difference |", "|---|---|"]
    lines += [f"| {title} | {value:.1e} |" for title, value in largest.items()]
    lines += ["", f"Machine: {platform.machine()}, torch {torch.__version__}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare, print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a sweep on the built-in language model")
    parser.add_argument("--root", type=Path, default=Path("sweeps"))
    arguments = parser.parse_args()
    directory = arguments.root / arguments.name
    sweep, _ = load_sweep(directory)
    subject = build_subject(SearchSpace.model_validate(sweep.space).subject, arguments.root.resolve() / ".bank")
    assert isinstance(subject, LanguageModel), "the sweep explains a toy"
    rows = whole_sequences(evaluation_rows(subject, sweep, directory))
    with tempfile.TemporaryDirectory() as name:
        done = export_sweep(directory, "saelens", output=Path(name) / "saes", select="all")
        ours = measured_here(directory, rows, subject, sweep, [one.uid for one in done.exported])
        text = table(ours, measured_there(Path(name), rows, subject), rows)
    print(text)
    (HERE / "results" / "export.md").write_text(text)


if __name__ == "__main__":
    main()
