"""What harvesting once and sharing costs and saves: the harvest, the stream, the memory, spilling, whole sweeps.

Run by hand: ``python benchmarks/harvest.py [--sections forward stream memory spill sweep]``. Every section is kept in
``build/harvest/``, so that they can be run on their own; ``results/harvest.md`` is made of what is there.

Both sides of a comparison run in turns. Times are processor seconds of the process that works, unless a table says
otherwise: other programs on the machine make wall time longer, and processor time hardly.

Shapes: N rows, D d_in, B batch, S sequences, T positions.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bank_memory
import harvest_spill
import harvest_sweep
import numpy as np
import psutil
import ray
import torch

from vsae_search.activations import BatchStream, build_bank
from vsae_search.activations.codec import encode_rows
from vsae_search.activations.harvest import ensure_shard
from vsae_search.activations.manifest import bank_requests
from vsae_search.space import ActivationsSpec, LanguageModelSubject
from vsae_search.subjects import build_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESULTS = Path(__file__).parent / "results"
SHARD_ROWS = 16_384
BATCH_SIZE = 1024
READERS = (1, 4)
MB = 1e6


def interleaved(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Processor seconds of each action in each round; the order turns from round to round. One round is left out."""
    names = list(actions)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.process_time()
            actions[name]()
            if turn:
                times[name].append(time.process_time() - begun)
    return {name: np.array(values) for name, values in times.items()}


def spread(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """Median and range."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def forward_row(name: str, subject: Any, num_rows: int, rounds: int) -> str:
    """A table row: writing a shard against running the bare model up to the hook on the same sequences."""
    request = bank_requests(subject.fingerprint, ActivationsSpec(num_tokens=num_rows, shard_tokens=num_rows))[0]
    subject.prepare({"train": num_rows}, num_rows)
    tokens_ST, _ = subject._sequences("train", 0, num_rows)
    model, size = subject.load(), subject.spec.harvest_batch

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, len(tokens_ST), size):
                model.activations(torch.from_numpy(tokens_ST[start : start + size]), subject.hook)

    def harvest() -> None:
        with tempfile.TemporaryDirectory() as folder:
            ensure_shard(subject, request, Path(folder))

    times = interleaved({"bare": bare, "harvest": harvest}, rounds)
    rates = [spread(tokens_ST.size / times[side], 0) for side in ("harvest", "bare")]
    ratio = spread(times["bare"] / times["harvest"])
    return f"| {name} | {subject.hook} | {num_rows:,} | {rates[0]} | {rates[1]} | {ratio} |"


def gpt2_shaped(folder: Path) -> LanguageModelSubject:
    """GPT-2 small with random weights, and a tokenizer of which it uses a part."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from vsae_search.subjects.tiny_gelu_1l.files import load_tokenizer
    from vsae_search.subjects.tiny_gelu_1l.tokenizer import BOS

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=load_tokenizer().backend, bos_token=BOS, eos_token=BOS)
    tokenizer.save_pretrained(folder)
    return language_model(str(folder), "blocks.8.hook_resid_pre", harvest_batch=8)


def language_model(model: str, hook: str, **changes: Any) -> LanguageModelSubject:
    """A model that reads the standard library in sequences of 128 tokens."""
    settings = {"type": "language_model", "context_length": 128, "text": {"source": "python_stdlib"}}
    return LanguageModelSubject.model_validate({**settings, "model": model, "hook": hook, **changes})


def forward() -> str:
    """Tokens per second of the harvest against those of the bare forward pass."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        tiny = build_subject(language_model("tiny_gelu_1l", "blocks.0.hook_mlp_out"), cache)
        rows = [forward_row("tiny_gelu_1l", tiny, 65_536, 9)]
        large = build_subject(gpt2_shaped(Path(folder) / "model"), cache)
        rows.append(forward_row("GPT-2 small, random weights", large, 2_000, 3))
    return f"""## Harvest against the bare forward pass

One process, one thread. The harvest reads the tokens, runs the model up to the hook in the same batches, keeps the
explained positions, checks, rounds and shuffles them, sums their statistics, and writes a checked shard file to disk.
Tokens per second of processor time, median (range); the ratio is taken in every round. Target: at least 0.9.

| model | hook | rows | harvest, tokens/s | bare, tokens/s | ratio |
|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def stream_rows(width: int, dtype: Any, rounds: int) -> str:
    """A table row: the stream over shards in the object store against plain copies of them, batch by batch."""
    count = max(2, round(120 * MB / (SHARD_ROWS * width * 4)))
    generator = np.random.default_rng(0)
    references = [
        ray.put(encode_rows(generator.standard_normal((SHARD_ROWS, width), dtype=np.float32), dtype))
        for _ in range(count)
    ]
    shapes = {"d_in": width, "dtype": dtype, "scale": 1.1, "batch_size": BATCH_SIZE, "seed": 0}
    stream = BatchStream(lambda index: ray.get(references[index]), (SHARD_ROWS,) * count, **shapes)

    def read() -> None:
        for _ in range(count * SHARD_ROWS // BATCH_SIZE):
            next(stream)

    def copy(kind: np.dtype[Any] | None = None) -> None:
        for reference in references:
            stored_ND = ray.get(reference)
            for start in range(0, SHARD_ROWS, BATCH_SIZE):
                batch = stored_ND[start : start + BATCH_SIZE]
                if kind is not None:  # as many bytes as the stream delivers
                    batch = floats_BD
                np.copyto(np.empty(batch.shape, dtype=batch.dtype), batch)

    floats_BD = np.ones((BATCH_SIZE, width), dtype=np.float32)
    times = interleaved({"stream": read, "stored": copy, "float32": lambda: copy(floats_BD.dtype)}, rounds)
    rate = count * SHARD_ROWS / times["stream"] / 1e6
    ratios = [spread(times[side] / times["stream"]) for side in ("stored", "float32")]
    return f"| {width} | {dtype} | {spread(rate, 1)} | {ratios[0]} | {ratios[1]} |"


def stream() -> str:
    """Rows per second of the stream against a memcpy."""
    rows = [stream_rows(width, dtype, 15) for width in (128, 256, 768) for dtype in ("fp32", "bf16", "fp16")]
    return f"""## Stream against memcpy

Batches of {BATCH_SIZE} rows from shards of {SHARD_ROWS:,} in the object store; one thread, processor time, 15 rounds,
median (range). The stream delivers scaled float32 in memory of its own. *Same bytes* copies the stored rows, batch by
batch, to fresh memory. *Delivered bytes* copies as many bytes as the stream delivers, from one batch that stays in
cache: for rows stored in 16 bits that is twice the bytes that are stored. Target for contiguous fp32: at least 0.8.

| width | stored as | stream, M rows/s | stream / copy of the same bytes | stream / copy of the delivered bytes |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


def memory() -> str:
    """Memory of the driver, the store and the readers."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"num_tokens": 15 * SHARD_ROWS, "shard_tokens": SHARD_ROWS, "evaluation_tokens": 1024}
        bank = build_bank(bank_memory.Noise(), ActivationsSpec(**sizes, calibration_tokens=1024), Path(folder))
        driver = psutil.Process()
        before = driver.memory_full_info().uss
        rows = bank_memory.measure_readers(bank, READERS)
        grown = (driver.memory_full_info().uss - before) / MB
    return f"""## Memory of concurrent trials (MB)

A bank of {bank.manifest.num_bytes / MB:.0f} MB, read to the end by every trial. The object store holds it once. USS is
memory that no other process maps; *growth* is what reading the whole bank added to it, at most. RSS counts shared pages
in every process; PSS counts them once, here over the driver, the trials and Ray's own processes. The driver's own
memory grew by {grown:.0f} MB.

| trials | object store used | USS per trial | growth of USS | RSS per trial | PSS of all processes |
|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def with_ray(section: Callable[[], str]) -> str:
    """Run a section with a local Ray."""
    ray.cloudpickle.register_pickle_by_value(bank_memory)
    options = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 700_000_000}
    ray.init(address="local", num_cpus=2, **options)
    try:
        return section()
    finally:
        ray.shutdown()


SECTIONS: dict[str, Callable[[], str]] = {
    "forward": forward,
    "stream": lambda: with_ray(stream),
    "memory": lambda: with_ray(memory),
    "spill": harvest_spill.section,
    "sweep": harvest_sweep.section,
}


def main() -> None:
    """Run the sections that are asked for and write the report of all that have been run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = RESULTS.parent.parent / "build" / "harvest"
    parts.mkdir(parents=True, exist_ok=True)
    for name in options.sections:
        text = SECTIONS[name]()
        text += f"\nLoad average at the end of this section: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.\n"
        (parts / f"{name}.md").write_text(text, encoding="utf-8")
        print(text, flush=True)
    head = f"# Harvest, stream and sharing\n\n{bank_memory.machine()}. Made by `python benchmarks/harvest.py`.\n\n"
    texts = [(parts / f"{name}.md").read_text(encoding="utf-8") for name in SECTIONS if (parts / f"{name}.md").exists()]
    (RESULTS / "harvest.md").write_text(head + "\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
