"""Memory of an analysis at the size of GPT-2: 24,576 latents, 768 coordinates.

Run by hand: ``python benchmarks/analyze_memory.py [--rows 20000] [--output benchmarks/results/analyze_memory.md]``.

The subject is synthetic, so that the memory of a language model is not counted. The autoencoder is a TopK one with
k = 64; it is compared with a noisy copy of itself in another order (stability, 24,576 against 24,576) and with a part
of it (splitting). Peak is the largest resident memory of the process so far, interpreter and libraries included; the
target is 4 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsae_search import saes
from vsae_search.analysis import Request, Trained, collect, discover, write_analysis
from vsae_search.search import SweepRecord, TrialRecord
from vsae_search.subjects import Baseline, GroundTruth, Rows, Split

if TYPE_CHECKING:
    from vsae_search.analysis import Analysis, Material

D_IN, D_SAE, K = 768, 24_576, 64
NARROW = 3072
TARGET_GB = 4.0


@dataclass(frozen=True)
class Noise:
    """Standard normal rows."""

    d_in: int = D_IN
    loss_name: str = "none"
    loss_unit: str = ""
    truth: GroundTruth | None = None

    @property
    def fingerprint(self) -> str:
        """Sha256 over the width, which is all that determines the rows."""
        return hashlib.sha256(f"noise {self.d_in}".encode()).hexdigest()

    def harvest(self, index: int, num_rows: int, split: Split = "train", *, shard_rows: int | None = None) -> Rows:
        """Return rows drawn from the split's own random stream."""
        del shard_rows
        seed = [index, num_rows, *split.encode()]
        return Rows(np.random.default_rng(seed).standard_normal((num_rows, self.d_in), dtype=np.float32))

    def baseline(self, rows: Rows) -> Baseline:
        """Not available: nothing is spliced here."""
        raise NotImplementedError

    def splice(self, rows: Rows, xhat_ND: Any) -> Any:
        """Not available: nothing is spliced here."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what the subject is."""
        return {"kind": "noise"}


def peak_gb() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Watched:
    """An analysis that notes how long it took and how far memory had grown."""

    def __init__(self, analysis: Analysis, lines: list[str]) -> None:
        self._analysis, self._lines = analysis, lines
        self.name, self.title, self.order = analysis.name, analysis.title, analysis.order
        self.definitions, self.render = analysis.definitions, analysis.render

    def unavailable(self, material: Material) -> str | None:
        """Pass the question on."""
        return self._analysis.unavailable(material)

    def compute(self, material: Material) -> Any:
        """Compute and take notes."""
        before = time.perf_counter()
        found = self._analysis.compute(material)
        self._lines.append(line(self.title, time.perf_counter() - before))
        print(self._lines[-1], flush=True)
        return found


def line(stage: str, seconds: float) -> str:
    """Return a line of the table."""
    return f"| {stage} | {seconds:.0f} | {peak_gb():.2f} |"


def stored(folder: Path, uid: str, sae: saes.SparseAutoencoder, rows: int) -> Trained:
    """Store an autoencoder as a sweep would."""
    saes.save(sae, folder / uid)
    sweep = SweepRecord(name="noise", digest="0", seed=0, status="completed", bank={"scale": 1.0, "rows": rows})
    trial = TrialRecord(uid=uid, architecture="topk", number=0, params={"k": K}, seed=0, state="completed")
    return Trained(folder, sweep, trial, folder / uid)


def three(folder: Path, rows: int) -> list[Trained]:
    """Return the autoencoder, a noisy copy in another order, and a part of it."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for uid, d_sae in (("topk-0000", D_SAE), ("topk-0001", D_SAE), ("topk-0002", NARROW)):
        sae = saes.create("topk", d_in=D_IN, d_sae=d_sae, k=K, seed=0)
        if uid != "topk-0000":
            base = saes.load(folder / "topk-0000").W_dec.detach()
            order = torch.randperm(D_SAE, generator=generator)[:d_sae]
            noise = torch.randn(d_sae, D_IN, generator=generator) / D_IN**0.5
            sae.W_dec.data = torch.nn.functional.normalize(base[order] + 0.7 * noise, dim=1)
        found.append(stored(folder, uid, sae, rows))
    return found


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "analyze_memory.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [line("start: interpreter and libraries", 0)]
    with tempfile.TemporaryDirectory() as folder:
        trained = three(Path(folder), arguments.rows)
        lines.append(line("making the autoencoders (not part of an analysis)", 0))
        print(*lines, sep="\n", flush=True)
        before = time.perf_counter()
        material = collect(Request(trained[0], (trained[1], trained[2]), num_rows=arguments.rows), Noise())
        lines.append(line("reading the rows", time.perf_counter() - before))
        print(lines[-1], flush=True)
        paths = write_analysis(material, Path(folder) / "out", analyses=[Watched(one, lines) for one in discover()])
        sizes = ", ".join(
            f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in (paths.html, paths.json, paths.latents)
        )
        assert 'class="failed"' not in paths.html.read_text(), "an analysis failed"
    lines.append(line("writing the files", 0))
    text = f"""# Memory of an analysis

{D_SAE:,} latents, {D_IN} coordinates, k = {K}, {arguments.rows:,} rows, one thread; compared with a noisy copy of the
same size and with an autoencoder of {NARROW:,} latents. The subject is synthetic: a language model adds its own
memory. Made by `python benchmarks/analyze_memory.py`.

| stage | seconds | peak resident memory so far, GB |
|---|---|---|
"""
    text += "\n".join(lines)
    text += f"\n\nTarget: below {TARGET_GB:g} GB; measured {peak_gb():.2f} GB. Files: {sizes}.\n"
    print(text)
    arguments.output.write_text(text)


if __name__ == "__main__":
    main()
