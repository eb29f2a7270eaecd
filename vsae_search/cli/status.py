"""``status``: what a sweep is doing, while it runs or afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsae_search.cli import _console
from vsae_search.cli._jobs import ServerAddress
from vsae_search.cli._options import DEFAULT_ROOT, Output, OutputFormat, Root, command_for, sweep_directory

if TYPE_CHECKING:
    from vsae_search.search.store.overview import Overview

_ADVICE = {"running": "report", "stopping": "report", "completed": "report"}


def status(
    name: Annotated[str | None, typer.Argument(help="Name of the sweep; left out, every sweep gets a line.")] = None,
    root: Root = DEFAULT_ROOT,
    output: OutputFormat = Output.TABLE,
    json: Annotated[bool, typer.Option("--json", help="Short for --output json.")] = False,
    address: ServerAddress = None,
) -> None:
    """Show what a sweep is doing: what runs, what has ended, what went wrong, and how long it will take.

    It reads the sweep directory alone, so it works from every machine that sees it. With --address it asks a cluster.
    """
    if address is not None:
        from vsae_search.cli import _submitted

        _submitted.show(address, name, as_json=json or output is Output.JSON)
        return
    from vsae_search.search.store.overview import overview

    directories = [sweep_directory(root, name)] if name else sorted(path.parent for path in root.glob("*/sweep.json"))
    found = [overview(directory) for directory in directories]
    if json or output is Output.JSON:
        told = [entry.as_json() for entry in found]
        _console.out_json(told[0] if name else told)
    elif name:
        _console.out(_as_text(found[0], root))
    else:
        for entry in found:
            _console.out(_headline(entry))
        if not found:
            _console.note(f"There is no sweep in {root} yet; --root names another folder.")


def _headline(found: Overview) -> str:
    driver = found.driver
    by = f"   process {driver.pid} on {driver.host}" if driver is not None and driver.alive else ""
    left = f"   about {_duration(found.remaining_s)} left" if found.remaining_s is not None else ""
    return f"{found.record.name:<24} {found.state:<11} {len(found.trials)}/{found.total} trials{left}{by}"


def _as_text(found: Overview, root: Path) -> str:
    lines = [_headline(found), *_table(found)]
    for uid, entry in found.running.items():
        rung = "" if entry.get("rung") is None else f", rung {entry['rung']} reached"
        lines.append(f"running   {uid}   since {_clock(str(entry.get('started_at')))}{rung}")
    if found.trials:
        lines.append(f"last      {_line(found.as_json()['last'])}")
    lines += [f"error     {_line(error)}" for error in found.as_json()["errors"]]
    lines.append(f"next      {command_for(_ADVICE.get(found.state, 'resume'), found.record.name, root)}")
    return "\n".join(lines)


def _table(found: Overview) -> list[str]:
    from vsae_search.search.store.overview import STATES

    columns = ("running", *STATES)
    width = max([len("architecture"), *map(len, found.counts)])
    lines = [f"{'architecture':<{width}}  " + "  ".join(columns) + "  of"]
    for name, counts in found.counts.items():
        numbers = "  ".join(f"{counts[column] or '-':>{len(column)}}" for column in columns)
        plan = found.record.architectures.get(name)
        given_up = f"   given up after {plan.given_up_after}" if plan and plan.given_up_after is not None else ""
        lines.append(f"{name:<{width}}  {numbers}  {plan.trials if plan else '-'}{given_up}")
    return lines


def _line(trial: dict[str, Any]) -> str:
    numbers = "".join(f"   {key} {trial[key]:.4g}" for key in ("l0", "delta_ce") if key in trial)
    error = f"   {trial['error']}" if "error" in trial else ""
    return f"{trial['uid']}   {trial['state']}   {_clock(trial['ended_at'])}{numbers}{error}"


def _clock(moment: str) -> str:
    """A moment in ISO 8601 without its fraction, in UTC."""
    return moment[:19].replace("T", " ")


def _duration(seconds: float | None) -> str:
    minutes, rest = divmod(round(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
