"""What a sweep is going to do: plain data first, then the text that ``sweep --dry-run`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.space import ChoiceRange, ConstantRange, IntRange, LanguageModelSubject, LogRange, UniformRange

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.space import Range, SearchSpace, SubjectSpec


def plan(space: SearchSpace, path: Path, root: Path) -> dict[str, Any]:
    """Collect everything that is decided before a sweep starts, as values that JSON can hold."""
    from vsae_search.activations import plan_bank
    from vsae_search.search.budgets import trial_budgets
    from vsae_search.search.records import BANK_FOLDER
    from vsae_search.subjects import width_of
    from vsae_search.tracking import mask_secrets

    budgets = trial_budgets(space)
    d_in = width_of(space.subject)
    features = 0 if isinstance(space.subject, LanguageModelSubject) else space.subject.features.count
    bank = None if d_in is None else plan_bank(d_in, space.activations, root / BANK_FOLDER, num_features=features)
    reference = space.objectives.reference
    return {
        "name": space.name,
        "file": str(path),
        "digest": space.digest(),
        "exists": (root / space.name / "sweep.json").is_file(),
        "subject": space.subject.type,
        "subject_source": _source(space.subject),
        "d_in": d_in,
        "train_tokens": space.activations.num_tokens,
        "evaluation_tokens": space.activations.evaluation_tokens,
        "bank": "sized when the model is loaded" if bank is None else bank.describe(),
        "trials": sum(budgets.values()),
        "steps_per_trial": space.training.num_steps,
        "batch_size": space.training.batch_size,
        "sampler": space.search.sampler,
        "reference": None if reference is None else reference.model_dump(),
        "architectures": {
            name: {
                "trials": budgets[name],
                "ranges": {key: in_words(value) for key, value in space.ranges(name).items()},
            }
            for name in space.architectures
        },
        "cpus_per_trial": space.resources.cpus_per_trial,
        "gpus_per_trial": space.resources.gpus_per_trial,
        "tracking": mask_secrets(space.tracking.uri or f"sqlite in {root / space.name}"),
        "directory": str(root / space.name),
    }


def _source(spec: SubjectSpec) -> str:
    """What a language model is, and where it is read; nothing for other subjects."""
    if not isinstance(spec, LanguageModelSubject):
        return ""
    return f"{spec.model} at {spec.hook_name}, context {spec.context_length}, text {spec.text.source}"


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
    state = "goes on" if data["exists"] else "new"
    reference = data["reference"]
    corner = f"L0 {reference['l0']:g}, {reference['delta_ce']:g}" if reference else "measured at the start"
    rows = f"{_count(data['train_tokens'])} train / {_count(data['evaluation_tokens'])} evaluation"
    search = f"{len(data['architectures'])} architectures · sampler {data['sampler']}"
    trial = f"{data['steps_per_trial']} steps of {data['batch_size']} rows"
    share = f"{data['cpus_per_trial']:g} CPU and {data['gpus_per_trial']:g} GPU per trial"
    source = f"{data['subject_source']}   " if data["subject_source"] else ""
    lines = [
        ("Sweep", f"{data['name']}   ({state}; {data['file']}  sha256 {data['digest'][:12]})"),
        ("Subject", f"{data['subject']}   {source}d_in {data['d_in'] or 'read from the model'}"),
        ("Rows", f"{rows}   {data['bank']}"),
        ("Search", f"{search} · minimise L0 and delta-CE · reference {corner}"),
    ]
    for name, one in data["architectures"].items():
        ranges = "   ".join(f"{key} {text}" for key, text in one["ranges"].items()) or "defaults"
        lines.append(("", f"  {name:<14} {one['trials']:>3} trials   {ranges}"))
    lines += [
        ("Plan", f"{data['trials']} trials · {trial} each · {share}"),
        ("Tracking", data["tracking"]),
        ("Storage", data["directory"]),
    ]
    return "\n".join(f"{label:<10}{text}" for label, text in lines)


def _count(number: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
