"""What a sweep is going to do: plain data first, then the text that ``sweep --dry-run`` prints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vsae_search.errors import UserInputError
from vsae_search.space import (
    ChoiceRange,
    ConstantRange,
    DatasetText,
    FilesText,
    IntRange,
    LanguageModelSubject,
    LogRange,
    PythonStdlibText,
    TokensText,
    UniformRange,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.activations import BankPlan
    from vsae_search.space import Range, SearchSpace, SubjectSpec, TextSpec


def plan(
    space: SearchSpace, path: Path, root: Path, address: str | None = None, source: Path | None = None
) -> dict[str, Any]:
    """Collect everything that is decided before a sweep starts, as values that JSON can hold."""
    from vsae_search.search.propose.budgets import trial_budgets
    from vsae_search.subjects import width_of
    from vsae_search.tracking import mask_secrets, tracking_uri

    budgets = trial_budgets(space)
    d_in = width_of(space.subject)
    bank = _bank(space, root)
    reference = space.objectives.reference
    return {
        "name": space.name,
        "file": str(path),
        "digest": space.digest(),
        "exists": (root / space.name / "sweep.json").is_file(),
        "state": _state(space, root),
        "subject": space.subject.type,
        "subject_source": _source(space.subject),
        "d_in": d_in,
        "train_tokens": space.activations.num_tokens,
        "evaluation_tokens": space.activations.evaluation_tokens,
        "bank": _bank_of_any_width(space) if bank is None else bank.describe(),
        "trials": sum(budgets.values()),
        "steps_per_trial": space.training.num_steps,
        "batch_size": space.training.batch_size,
        "sampler": space.search.sampler,
        "allocation": space.search.allocation,
        "l0_range": space.objectives.l0_range,
        "enqueued": len(space.search.enqueue),
        "from": _from(space, root, source),
        "reference": None if reference is None else reference.model_dump(),
        "architectures": {
            name: {
                "trials": budgets[name],
                "ranges": {key: in_words(value) for key, value in space.ranges(name).items()},
            }
            for name in space.architectures
        },
        "early_stopping": _early_stopping(space),
        "cpus_per_trial": space.resources.cpus_per_trial,
        "gpus_per_trial": space.resources.gpus_per_trial,
        "tracking": mask_secrets(tracking_uri(space.tracking) or f"sqlite in {root / space.name}"),
        "directory": str(root / space.name),
        "warnings": _warnings(space, address),
    }


def _from(space: SearchSpace, root: Path, source: Path | None) -> dict[str, Any] | None:
    """What is taken over from an earlier sweep, and what does not fit."""
    from vsae_search.search.propose.warm_start import warm_start
    from vsae_search.search.store.directory import earlier_session

    if source is None:
        return None
    start = warm_start(space, earlier_session(space, root / space.name), source)
    return None if start is None else start.model_dump(mode="json")


def check(space: SearchSpace, root: Path) -> None:
    """Refuse, without starting anything, what the sweep itself would refuse.

    Raises:
        UserInputError: A sweep of that name has another search space, or the bank has too many shards.
        EnvironmentNotReady: The disk cannot hold the activation bank, or event files cannot be written.
    """
    from vsae_search.search.store.directory import earlier_session
    from vsae_search.tracking import require_tensorboard

    if space.tracking.tensorboard:
        require_tensorboard()
    bank = _bank(space, root)
    # the bank of a sweep that goes on is on the disk already, at an address that only its subject knows
    if earlier_session(space, root / space.name) is None and bank is not None:
        bank.check()


def _bank(space: SearchSpace, root: Path) -> BankPlan | None:
    """The size of the activation bank; None when only the model knows the width of a row."""
    from vsae_search.activations import plan_bank
    from vsae_search.search.records import BANK_FOLDER
    from vsae_search.subjects import width_of

    d_in = width_of(space.subject)
    features = 0 if isinstance(space.subject, LanguageModelSubject) else space.subject.features.count
    return None if d_in is None else plan_bank(d_in, space.activations, root / BANK_FOLDER, num_features=features)


def _bank_of_any_width(space: SearchSpace) -> str:
    """What is known of the size of a bank before the width of its rows is."""
    from vsae_search.activations.codec import STORAGE
    from vsae_search.activations.manifest import count_shards
    from vsae_search.activations.plan import format_bytes

    spec = space.activations
    each = format_bytes(spec.num_tokens * STORAGE[spec.dtype].itemsize)
    return f"{count_shards(spec)} shards, {each} for each of the d_in coordinates; checked when that is known"


def _state(space: SearchSpace, root: Path) -> str:
    """Whether the sweep is new, goes on, or will be refused because its search space is another one."""
    from vsae_search.search.store.directory import earlier_session

    try:
        earlier = earlier_session(space, root / space.name)
    except UserInputError:
        return "refused: the search space has changed"
    return "new" if earlier is None else "goes on"


def _warnings(space: SearchSpace, address: str | None) -> list[str]:
    """What is likely to be a mistake; the size of a cluster is not known here."""
    if address is not None:
        return []
    found: list[str] = []
    cpus, gpus, here = space.resources.cpus_per_trial, space.resources.gpus_per_trial, os.cpu_count() or 1
    if cpus != "auto" and cpus > here:
        found.append(f"a trial asks for {cpus:g} CPUs and this machine has {here}: no trial can start")
    if gpus != "auto" and gpus > 0 and gpus > (there := _gpus()):
        found.append(f"a trial asks for {gpus:g} GPU and this machine has {there}: no trial can start")
    return found


def _gpus() -> int:
    """GPUs of this machine; asked for only when trials want some, since it takes torch."""
    import torch

    return torch.cuda.device_count()


def _source(spec: SubjectSpec) -> str:
    """What a language model is, and where it is read; nothing for other subjects."""
    if not isinstance(spec, LanguageModelSubject):
        return ""
    model = spec.model if spec.revision is None else f"{spec.model}@{spec.revision}"
    return f"{model} at {spec.hook_name}, context {spec.context_length}, text {_text(spec.text)}"


def _text(spec: TextSpec) -> str:
    """Where a text comes from."""
    match spec:
        case PythonStdlibText():
            return spec.source
        case DatasetText():
            config = "" if spec.config is None else f" {spec.config}"
            return f"{spec.source} {spec.name}{config} {spec.split}"
        case FilesText():
            more = f" and {len(spec.paths) - 1} more" if len(spec.paths) > 1 else ""
            return f"{spec.source} {spec.paths[0]}{more}"
        case TokensText():
            return f"{spec.source} {spec.path}"


def in_words(spec: Range) -> str:
    """A range as mathematicians write it: ``[0.1, 10] log``, ``{4, 8, 16}``, ``3``."""
    match spec:
        case LogRange(low=low, high=high):
            return f"[{low:g}, {high:g}] log"
        case UniformRange(low=low, high=high) | IntRange(low=low, high=high):
            return f"[{low:g}, {high:g}]"
        case ChoiceRange(choices=choices):
            return "{" + ", ".join(str(choice) for choice in choices) + "}"
        case ConstantRange(value=value):
            return str(value)


def as_text(data: dict[str, Any]) -> str:
    """The plan as the block of lines that people read."""
    reference = data["reference"]
    corner = f"L0 {reference['l0']:g}, {reference['delta_ce']:g}" if reference else "measured at the start"
    rows = f"{_count(data['train_tokens'])} train / {_count(data['evaluation_tokens'])} evaluation"
    search = f"{len(data['architectures'])} architectures · sampler {data['sampler']}"
    search += ", one study for all" if data["allocation"] == "joint" else ""
    corner += f" · L0 from {data['l0_range'][0]:g} to {data['l0_range'][1]:g}" if data["l0_range"] else ""
    trial = f"{data['steps_per_trial']} steps of {data['batch_size']} rows"
    share = f"{_amount(data['cpus_per_trial'])} CPU and {_amount(data['gpus_per_trial'])} GPU per trial"
    source = f"{data['subject_source']}   " if data["subject_source"] else ""
    lines = [
        ("Sweep", f"{data['name']}   ({data['state']}; {data['file']}, search space {data['digest'][:12]})"),
        ("Subject", f"{data['subject']}   {source}d_in {data['d_in'] or 'read from the model'}"),
        ("Rows", f"{rows}   {data['bank']}"),
        ("Search", f"{search} · minimise L0 and delta-CE · reference {corner}"),
    ]
    for name, one in data["architectures"].items():
        ranges = "   ".join(f"{key} {text}" for key, text in one["ranges"].items()) or "defaults"
        lines.append(("", f"  {name:<14} {one['trials']:>3} trials   {ranges}"))
    if data["enqueued"]:
        lines.append(("First", f"{data['enqueued']} configurations of search.enqueue"))
    if (start := data["from"]) is not None:
        text = f"{len(start['trials'])} configurations from the frontiers of {start['source']}"
        lines.append(("From", f"{text}; {len(start['left_out'])} are left out"))
        lines += [("", f"  {one['uid']}: {one['reason']}") for one in start["left_out"]]
    lines += [
        ("Plan", f"{data['trials']} trials · {trial} each · {share}"),
        ("Stopping", data["early_stopping"]),
        ("Tracking", data["tracking"]),
        ("Storage", data["directory"]),
        *(("Warning", text) for text in data["warnings"]),
    ]
    return "\n".join(f"{label:<10}{text}" for label, text in lines)


def _early_stopping(space: SearchSpace) -> str:
    """Whether, where and by which rule trials are stopped early."""
    from vsae_search.search.stopping.halving import Rule, stopped_early

    rule = Rule.of(space)
    rungs = [f"{rung:g}" for rung in space.training.rungs if rule.decides_at(rung)]
    asked = " (auto)" if space.search.early_stopping == "auto" else ""
    architectures = stopped_early(space)
    if not architectures:
        return f"off{asked}: every trial is trained to its end"
    if not rungs:
        return f"on{asked}, and without effect: no rung lies between {rule.grace:g} and 1 of the training"
    which = "each architecture" if len(architectures) == len(space.architectures) else ", ".join(architectures)
    return f"on{asked}: about the best 1/{rule.eta:g} of {which} go on at {', '.join(rungs)} of the training"


def _amount(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _count(number: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
