"""``status`` and ``stop`` of sweeps that run as jobs: the same commands, run on the cluster by short jobs."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vsae_search.cli import _console
from vsae_search.cli._connect import job_server
from vsae_search.cli._jobs import json_in
from vsae_search.cli._parcel import parcel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.cli._jobs import Job, JobServer


def show(address: str, name: str | None, *, as_json: bool) -> None:
    """Print what a submitted sweep is doing; without a name, a line for every one that the cluster remembers."""
    server = job_server(address)
    if name is None:
        _show_all(server, as_json=as_json)
        return
    job = server.latest(name)
    if as_json:
        _, printed = _ask(server, job, ["status", name, "--output", "json"])
        found = json_in(printed)
        _console.out_json({"job": job.as_json(), "sweep": found if isinstance(found, dict) else None})
        return
    _console.out(_line(job))
    succeeded, printed = _ask(server, job, ["status", name])
    told = re.search(rf"^{re.escape(name)}\s.*", printed, re.MULTILINE | re.DOTALL)
    if succeeded and told is not None:
        _console.out(told[0].rstrip())
    else:
        _console.note("It has not begun to search, or its folder is gone; what it printed says more:")
    _console.note(f"read    python -m vsae_search logs {name} --address {server.address}")


def end(address: str, name: str, *, now: bool, as_json: bool = False) -> None:
    """Have a submitted sweep stop, through its directory; a job that has no sweep to stop yet is ended itself."""
    server = job_server(address)
    job = server.latest(name)
    if job.ended:
        _console.note(f"{name} is not running: job {job.id} has {job.status.lower()}.")
    else:
        _console.note(f"{name}, job {job.id}, {_stopped(server, job, now=now)}.")
        _console.note(f"look    python -m vsae_search status {name} --address {server.address}")
    if as_json:
        _console.out_json({"sweep": name, "job": job.id, "asked": not job.ended})


def _stopped(server: JobServer, job: Job, *, now: bool) -> str:
    """End a job, and say how."""
    asked: Any = None
    if job.status == "RUNNING":
        _, printed = _ask(server, job, ["stop", job.sweep, *(["--now"] if now else []), "--output", "json"])
        asked = json_in(printed)
    if isinstance(asked, dict) and asked.get("asked") is True:
        return "is stopped" if now else "starts no more trials, and ends when those that run have finished"
    server.stop(job)
    return "had not begun to search, or could not be asked, and is ended"


def _show_all(server: JobServer, *, as_json: bool) -> None:
    last = {job.sweep: job for job in server.jobs()}
    if as_json:
        _console.out_json([job.as_json() for job in last.values()])
        return
    for job in last.values():
        _console.out(_line(job))
    if not last:
        _console.note(f"No sweep was submitted to {server.address} yet.")


def _ask(server: JobServer, job: Job, arguments: Sequence[str]) -> tuple[bool, str]:
    """Run a command on the cluster, with the package with which the sweep runs."""
    with parcel(None, package=job.ships_package) as sent:
        return server.ask([*arguments, "--root", job.root], sent)


def _line(job: Job) -> str:
    since = "" if job.started_ms is None else f"   since {_clock(job.started_ms)}"
    message = f"   {job.message}" if job.status == "FAILED" and job.message else ""
    return f"{job.sweep:<24} job {job.id}   {job.status.lower()}{since}{message}"


def _clock(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
