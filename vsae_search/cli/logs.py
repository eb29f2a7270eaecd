"""``logs``: what a submitted sweep has printed."""

from __future__ import annotations

from typing import Annotated

import typer

from vsae_search.cli import _console


def logs(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    address: Annotated[
        str, typer.Option(metavar="URL", help="Ray's job server: http://HEAD:8265.", show_default=False)
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a submitted sweep has printed: progress, errors, and where its report is."""
    from vsae_search.cli._connect import job_server
    from vsae_search.tracking import mask_secrets

    server = job_server(address)
    job = server.latest(name)
    if not follow:
        _console.out(mask_secrets(server.logs(job)).rstrip("\n"))
        return
    for part in server.follow(job):
        _console.out(mask_secrets(part).rstrip("\n"))
    job = server.latest(name)
    _console.note(f"{job.id}   {job.status.lower()}   {job.message}")
