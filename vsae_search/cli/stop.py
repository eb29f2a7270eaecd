"""``stop``: end a sweep from another terminal, or another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from vsae_search.cli import _console
from vsae_search.cli._jobs import ServerAddress
from vsae_search.cli._options import DEFAULT_ROOT, Output, OutputFormat, Root, command_for, sweep_directory


def stop(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the trials that run.")] = False,
    root: Root = DEFAULT_ROOT,
    address: ServerAddress = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Stop a sweep: no trial is started any more, and those that run finish, unless --now.

    The request goes through the sweep directory, so it reaches a driver on another machine that shares it. Nothing is
    lost; a trial that is stopped at once goes on from its last checkpoint. With --address it goes to a cluster.
    """
    if address is not None:
        from vsae_search.cli import _submitted

        _submitted.end(address, name, now=now, as_json=output is Output.JSON)
        return
    from vsae_search.search.store.lock import driver_of
    from vsae_search.search.store.requests import request_stop, signal_driver

    directory = sweep_directory(root, name)
    driver = driver_of(directory)
    running = driver is not None and driver.alive
    if driver is None or not driver.alive:
        _console.note(f"{name} is not running.")
    else:
        request_stop(directory, now=now)
        if now and driver.here:
            signal_driver(driver.pid)
        what = "is stopped" if now else "starts no more trials, and ends when those that run have finished"
        _console.note(f"{name}, run by process {driver.pid} on {driver.host}, {what}.")
    if output is Output.JSON:
        _console.out_json({"sweep": name, "asked": running})
        return
    _console.note(f"look    {command_for('status', name, root)}")
    _console.note(f"go on   {command_for('resume', name, root)}")
