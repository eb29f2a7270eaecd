"""What is written about a sweep and its trials, in MLflow's terms: pure data, no MLflow.

A trial's curve is kept under ``rung/<metric>`` (step = training rows seen) and its final values under the plain metric
name, once. Plain names exist for completed trials only, so ``mlflow.search_runs`` never mixes a trial that was stopped
at a quarter of its budget with one that used all of it; what an uncompleted trial left is under ``partial/<metric>``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from vsae_search.search.confirm.records import split_uid

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

PARENT_TAG = "mlflow.parentRunId"
NAME_TAG = "mlflow.runName"
UID_TAG = "vsae.trial_uid"
SWEEP_ID_TAG = "vsae.sweep_id"
STATE_TAG = "vsae.state"

TRIAL_STATUS: dict[str, RunStatus] = {
    "completed": "FINISHED",
    "stopped": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
SWEEP_STATUS: dict[str, RunStatus] = {"completed": "FINISHED", "failed": "FAILED"}  # anything else: KILLED

_LONGEST_TAG = 4000
_LONGEST_PARAM = 500
_TIMINGS = ("train_s", "evaluate_s", "wall_s", "overhead_s")


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass
class Content:
    """Parameters, tags and metrics for one run."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    def add(self, other: Content) -> None:
        """Take in later content of the same run."""
        self.params.update(other.params)
        self.tags.update(other.tags)
        self.points.extend(other.points)


def sweep_content(record: dict[str, Any]) -> Content:
    """Parameters and tags of a sweep's run, from a dumped :class:`~vsae_search.search.records.SweepRecord`."""
    tags = {
        "vsae.kind": record.get("kind", "sweep"),
        "vsae.sweep": record["name"],
        "vsae.digest": record["digest"],
        "vsae.sessions": record["sessions"],
        "vsae.loss": f"{record['loss_name']} ({record['loss_unit']})",
        "mlflow.note.content": record["description"],
        "mlflow.source.git.commit": record["git_commit"],
        "vsae.git_dirty": record["git_dirty"],
        STATE_TAG: record["status"],
        **flatten(record["versions"], "vsae.version."),
        **flatten(record["bank"], "vsae.bank."),
        **flatten(record["subject"], "vsae.subject."),
        **flatten(record["reference"] or {}, "vsae.reference."),
        **flatten(record["resources"], "vsae.resources."),
    }
    params = flatten({"digest": record["digest"], "seed": record["seed"], **record["space"]})
    return Content(
        params={key: as_text(value, _LONGEST_PARAM) for key, value in params.items() if value is not None},
        tags={key: as_text(value, _LONGEST_TAG) for key, value in tags.items() if value not in (None, "")},
    )


def trial_content(uid: str, architecture: str, params: dict[str, Any]) -> Content:
    """Parameters and tags that a trial, or a replicate of one, has from its start."""
    named = {"architecture": architecture, **params}
    tags = {"vsae.kind": "trial", UID_TAG: uid, "vsae.architecture": architecture, STATE_TAG: "running"}
    replicate = split_uid(uid)
    if replicate is not None:
        tags |= {
            "vsae.kind": "replicate",
            "vsae.configuration": replicate[0],
            "vsae.replicate": str(replicate[1]),
        }
    return Content(params={key: as_text(value, _LONGEST_PARAM) for key, value in named.items()}, tags=tags)


def rung_content(rung: dict[str, Any], time_ms: int) -> Content:
    """Metrics of one rung, from a dumped :class:`~vsae_search.search.records.RungRecord`."""
    points = [Point(f"rung/{key}", value, time_ms, rung["tokens"]) for key, value in numbers(rung["metrics"]).items()]
    return Content(points=points)


def end_content(trial: dict[str, Any], time_ms: int) -> Content:
    """Everything about a trial that has ended, from a dumped :class:`~vsae_search.search.records.TrialRecord`.

    The whole curve is included: what an interrupted session did not deliver is made up for here.
    """
    content = trial_content(trial["uid"], trial["architecture"], trial["params"])
    content.params["seed"] = str(trial["seed"])
    content.tags |= {STATE_TAG: trial["state"], "vsae.attempt": str(trial["attempt"])}
    if trial["error"]:
        content.tags["vsae.error"] = as_text(trial["error"], _LONGEST_TAG)
    for rung in trial["rungs"]:
        content.add(rung_content(rung, time_ms))
    step = trial["rungs"][-1]["tokens"] if trial["rungs"] else 0
    prefix = "" if trial["state"] == "completed" else "partial/"
    final = {key: float(trial[key]) for key in _TIMINGS}
    final |= {prefix + key: value for key, value in numbers(trial["metrics"]).items()}
    content.points += [Point(key, value, time_ms, step) for key, value in final.items()]
    return content


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics as floats; the records spell non-finite numbers as strings."""
    return {key: float(value) for key, value in metrics.items()}


def flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted names; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_text(value: Any, longest: int) -> str:
    """A value as MLflow shows it: scalars as Python writes them, the rest as JSON, cut with an ellipsis."""
    text = json.dumps(value, default=str) if isinstance(value, dict | list | tuple) else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def milliseconds(moment: str, otherwise: int) -> int:
    """A UTC moment in ISO 8601 as milliseconds since 1970; ``otherwise`` when it is empty."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000) if moment else otherwise
