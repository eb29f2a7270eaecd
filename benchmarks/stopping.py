"""Does it pay to stop trials early? Hypervolume at equal training, with and without, for several samplers.

Run by hand, in this order. Every step goes on where it was interrupted, and keeps what it has in ``build/stopping``::

    python benchmarks/stopping.py collect toy --trials 110    # train random trials of every architecture
    python benchmarks/stopping.py collect tiny_lm --trials 60
    python benchmarks/stopping.py search toy                  # search over them with every sampler and rule
    python benchmarks/stopping.py search tiny_lm
    python benchmarks/stopping.py table                       # benchmarks/results/stopping.md

A trial of the table is trained to its end, and evaluated at every rung. A search takes trials out of the table, sees
what its rule lets it see, and pays for the training that it used. Random search draws them in random order, which is
random search exactly. The other samplers propose freely, and get the nearest trial that is left.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stopping_replay import Table, replay
from stopping_search import pool_search
from stopping_trials import BUILD, SPACES, Laboratory, collect

from vsae_search.search.stopping.halving import Rule

if TYPE_CHECKING:
    from stopping_replay import Outcome

RUNGS = (0.25, 0.5, 1.0)
RULES: dict[str, Rule | None] = {
    "off": None,
    "from 1/2, eta 2": Rule(eta=2, grace=0.5, min_results=4),
    "from 1/2, eta 3": Rule(eta=3, grace=0.5, min_results=6),
    "from 1/4, eta 2": Rule(eta=2, grace=0.25, min_results=4),
    "from 1/4, eta 3": Rule(eta=3, grace=0.25, min_results=6),
    "from 1/2, eta 3, front not spared": Rule(eta=3, grace=0.5, min_results=6, spare_front=False),
}
LEARNT = ("off", "from 1/2, eta 2", "from 1/2, eta 3", "from 1/4, eta 2")
"""Rules with which the samplers that learn are run; their searches take a thousand times as long."""
SEEDS = {"random": 100, "tpe": 10, "gp": 5}
MARKS = {"random": (8, 16, 32), "tpe": (8, 16, 32), "gp": (8, 16)}
WORKERS = 1
FEWEST_SEEDS = 3
"""Of a sampler, before it is shown."""


def search(name: str, samplers: list[str]) -> None:
    """Search the table of one search space with every sampler, rule and seed."""
    table, laboratory = Table.read(name), Laboratory(name)
    path = BUILD / f"{name}.searches.jsonl"
    known = {json.loads(line)["key"] for line in path.read_text().splitlines()} if path.is_file() else set()
    with path.open("a") as file:
        for sampler in samplers:
            for seed in range(SEEDS[sampler]):
                for rule in RULES if sampler == "random" else LEARNT:
                    for architecture in table.curves:
                        key = f"{sampler}|{rule}|{architecture}|{seed}"
                        if key not in known:
                            found = _one(table, laboratory, sampler, rule, architecture, seed)
                            file.write(json.dumps({"key": key, "marks": found}) + "\n")
                            file.flush()


def _one(
    table: Table, laboratory: Laboratory, sampler: str, rule: str, architecture: str, seed: int
) -> dict[str, list[float]]:
    curves, best = table.curves[architecture], table.best(architecture)
    # a search that could use up the table would be held back by its end
    marks = tuple(mark for mark in MARKS[sampler] if 2 * mark <= len(curves))
    outcomes: dict[float, Outcome] = {}
    if sampler == "random":
        order = [curves[i] for i in np.random.default_rng(seed).permutation(len(curves))]
        for mark in marks:
            outcomes[mark] = replay(
                order, RULES[rule], rungs=RUNGS, budget=mark, workers=WORKERS, reference=table.reference
            )
    else:
        outcomes = pool_search(
            curves,
            laboratory.proposals(architecture, seed),
            sampler,
            RULES[rule],
            rungs=RUNGS,
            marks=marks,
            reference=table.reference,
            seed=seed,
        )
    return {str(m): [o.hypervolume / best, o.completed, o.stopped, o.false_stops] for m, o in outcomes.items()}


def read_searches(name: str) -> dict[tuple[str, str], dict[str, np.ndarray[Any, Any]]]:
    """(sampler, rule) to mark to an array [architecture, seed, number]; unfinished seeds are left out."""
    path = BUILD / f"{name}.searches.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    found = {tuple(line["key"].split("|")): line["marks"] for line in lines}
    architectures = SPACES[name]["architectures"]
    tables: dict[tuple[str, str], dict[str, np.ndarray[Any, Any]]] = {}
    for sampler, rules in {"random": tuple(RULES), "tpe": LEARNT, "gp": LEARNT}.items():
        seeds = [
            seed
            for seed in range(SEEDS[sampler])
            if all((sampler, rule, one, str(seed)) in found for rule in rules for one in architectures)
        ]
        for rule in rules if len(seeds) >= FEWEST_SEEDS else ():
            tables[sampler, rule] = {
                mark: np.array(
                    [[found[sampler, rule, one, str(seed)][mark] for seed in seeds] for one in architectures]
                )
                for mark in found[sampler, rule, architectures[0], str(seeds[0])]
            }
    return tables


def table_of(name: str) -> list[str]:
    """Lines of Markdown for one search space."""
    tables, architectures = read_searches(name), SPACES[name]["architectures"]
    trials = {key: len(curves) for key, curves in Table.read(name).curves.items()}
    lines = [
        f"## `{name}`",
        "",
        "Trials in the table: " + ", ".join(f"{key} {count}" for key, count in trials.items()) + ".",
        "",
        f"| sampler | seeds | training | rule | hypervolume | against off | seeds won | {' | '.join(architectures)} |"
        " completed | stopped | false stops |",
        "|---" * (7 + len(architectures) + 3) + "|",
    ]
    for (sampler, rule), marks in tables.items():
        for mark, array in marks.items():
            base = tables[sampler, "off"][mark]
            gain_AS = array[..., 0] - base[..., 0]
            mean_S = gain_AS.mean(axis=0)
            error = mean_S.std(ddof=1) / np.sqrt(len(mean_S)) if len(mean_S) > 1 else np.nan
            off = rule == "off"
            stopped = array[..., 2].sum()
            cells = [
                sampler,
                str(array.shape[1]),
                mark,
                rule,
                f"{array[..., 0].mean():.4f}",
                "" if off else f"{mean_S.mean():+.4f} ± {error:.4f}",
                "" if off else f"{(mean_S > 0).mean():.0%}",
                *("" if off else f"{gain:+.3f}" for gain in gain_AS.mean(axis=1)),
                f"{array[..., 1].mean():.1f}",
                "" if off else f"{array[..., 2].mean():.1f}",
                "" if off or not stopped else f"{array[..., 3].sum() / stopped:.0%}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def write_table(output: Path) -> None:
    """Write what was measured, for every search space that was searched."""
    lines = ["# Early stopping", "", *_EXPLANATION, ""]
    for name in SPACES:
        if read_searches(name):
            lines += table_of(name)
    output.write_text("\n".join([*lines, *_READING, ""]))


_EXPLANATION = """Hypervolume at equal training, with and without early stopping. Made by
`python benchmarks/stopping.py`.

Every number comes from trials that were trained: random configurations of every architecture, each trained to its end
and evaluated at 1/8, 1/4, 1/2 and the whole of its training (`toy`: 200,000 rows; `tiny_lm`: 100,000 rows). A search
takes trials out of this table one at a time, stops them by its rule, and pays for the training that it used. *random*
draws them in random order; *tpe* and *gp* start with the Sobol points of a sweep, then propose freely and get the
nearest trial that is left. A stopped trial is told to them as in a sweep.

*training* is what an architecture may spend, in units of one whole trial. *hypervolume* is that of the completed trials
as a part of that of the whole table, mean over architectures and seeds. *against off* is the mean difference with the
same seeds, ± one standard error; then how many of the seeds it is positive for, and the difference for every
architecture. *false stops* are the stopped trials that would have ended on the frontier of their search. Rules: *from
1/4* decides at the rungs 1/4 and 1/2, *from 1/2* at 1/2 only; about the best 1/eta go on. Unless it says otherwise a
trial on the front of its rung always goes on.""".splitlines()


_READING = """## Reading

* Deciding at a quarter of the training costs the Gaussian VSAE (`vsae_iso`) hypervolume with nearly every sampler and
  budget: its trials change their order between a quarter and the end. Deciding at a half costs it little or nothing.
  This is why the grace period is half of the training by default.
* With random search, deciding at a half with eta 2 gains for `topk` at every budget on both subjects, and this is all
  that `search.early_stopping: auto` turns on. For the other architectures it gains on `toy`, and loses up to 0.003 on
  `tiny_lm`, whose trials are short (97 steps).
* Deciding at a half with eta 2, the difference is within two standard errors with TPE at every budget; with the
  Gaussian process it is so on `toy`, and a loss on `tiny_lm`. A model has left the regions in which halving would stop
  trials before it tries them.
* The sampler matters more than stopping: at equal training the Gaussian process is ahead of TPE, and TPE of random
  search, at every budget on both subjects.
* A rule that may stop a trial on the front of its rung is worse at nearly every budget, most of all at small ones.
* eta 2 and eta 3 stop about as many trials by mistake; eta 2 gains earlier.""".splitlines()


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("collect", "search", "table"))
    parser.add_argument("space", nargs="?", choices=tuple(SPACES))
    parser.add_argument("--trials", type=int, default=60, help="trials of each architecture")
    parser.add_argument("--samplers", nargs="+", default=list(SEEDS), choices=tuple(SEEDS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stopping.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.step == "collect":
        collect(arguments.space, arguments.trials)
    elif arguments.step == "search":
        search(arguments.space, arguments.samplers)
    else:
        write_table(arguments.output)
        print(arguments.output.read_text())


if __name__ == "__main__":
    main()
