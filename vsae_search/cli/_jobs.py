"""Sweeps as jobs of a Ray cluster: its job server is found, asked and told through this file.

A sweep's jobs are ``vsae-NAME-1``, ``vsae-NAME-2``, ...: every submission is a job of its own, because Ray takes no
job's name twice, and the latest of them is what ``status``, ``logs`` and ``stop`` mean by the name of the sweep. What a
sweep has done is in its directory on the cluster, which may not be seen from here. It is asked for by short jobs, which
run the same commands there.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsae_search.errors import EnvironmentNotReady, UserInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ray.job_submission import JobSubmissionClient

ServerAddress = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="Ray's job server (http://HEAD:8265), for a sweep that was submitted to it."
    ),
]
PREFIX = "vsae"
SWEEP_KEY, ROOT_KEY, PACKAGE_KEY = "vsae.sweep", "vsae.root", "vsae.package"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_QUESTION_S = 300.0
_POLL_S = 0.25
_FOLLOW_S = 1.0


@dataclass(frozen=True)
class Job:
    """One submission of a sweep.

    Attributes:
        id: Its name on the cluster.
        number: Which submission of the sweep it is, from 1.
        sweep: Name of the sweep.
        root: Folder of sweeps on the cluster.
        ships_package: Whether it brought its own copy of this package.
        status: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
        message: What Ray says about it.
        started_ms: When it began, in milliseconds since 1970; None while it waits.
    """

    id: str
    number: int
    sweep: str
    root: str
    ships_package: bool
    status: str
    message: str
    started_ms: int | None

    @property
    def ended(self) -> bool:
        """Whether it runs no more, and will not."""
        return self.status in ENDED

    def as_json(self) -> dict[str, Any]:
        """What is told of it, as values that JSON can hold."""
        keys = ("id", "sweep", "root", "status", "message", "started_ms")
        return {key: getattr(self, key) for key in keys}


class JobServer:
    """The job server of a cluster.

    Args:
        address: Its address.
        client: Ray's client for it.
    """

    def __init__(self, address: str, client: JobSubmissionClient) -> None:
        self.address, self.client = address, client

    def jobs(self) -> list[Job]:
        """All submissions of sweeps that the cluster remembers, oldest first."""
        with self._answering():
            details = self.client.list_jobs()
        found = [job for one in details if (job := _job(one)) is not None]
        return sorted(found, key=lambda job: (job.started_ms or 0, job.number))

    def of(self, sweep: str) -> list[Job]:
        """The submissions of one sweep, oldest first."""
        return sorted((job for job in self.jobs() if job.sweep == sweep), key=lambda job: job.number)

    def latest(self, sweep: str) -> Job:
        """The last submission of a sweep.

        Raises:
            UserInputError: There is none; the hint lists the sweeps that there are.
        """
        jobs = self.jobs()
        mine = [job for job in jobs if job.sweep == sweep]
        if not mine:
            known = ", ".join(sorted({job.sweep for job in jobs}))
            hint = f"Sweeps submitted there: {known}" if known else "No sweep was submitted to it yet."
            raise UserInputError(f"No sweep called {sweep!r} was submitted to {self.address}.", hint)
        return max(mine, key=lambda job: job.number)

    def submit(
        self, sweep: str, arguments: Sequence[str], runtime_env: Mapping[str, Any], facts: Mapping[str, str]
    ) -> str:
        """Start a sweep as a job, unless one of its jobs is running.

        Args:
            sweep: Name of the sweep.
            arguments: Command line, without the program.
            runtime_env: Ray's description of what the job needs.
            facts: Kept with the job.

        Returns:
            The name of the job.

        Raises:
            EnvironmentNotReady: The sweep is running already.
        """
        earlier = self.of(sweep)
        self._refuse_running(earlier)
        number = 1 + max((job.number for job in earlier), default=0)
        try:
            with self._answering():
                return self._start(f"{PREFIX}-{sweep}-{number}", arguments, runtime_env, {SWEEP_KEY: sweep, **facts})
        except EnvironmentNotReady:
            self._refuse_running(self.of(sweep)[len(earlier) :])  # somebody else was faster
            raise

    def ask(self, arguments: Sequence[str], runtime_env: Mapping[str, Any]) -> tuple[bool, str]:
        """Run a short command on the cluster and wait for it.

        Returns:
            Whether it succeeded, and what it printed.

        Raises:
            EnvironmentNotReady: It did not come to an end.
        """
        with self._answering():
            name = self._start(None, arguments, runtime_env, {})
            end = time.monotonic() + _QUESTION_S
            while (status := str(self.client.get_job_status(name).value)) not in ENDED:
                if time.monotonic() > end:
                    self.client.stop_job(name)
                    raise EnvironmentNotReady(
                        f"{self.address} did not run {shlex.join(arguments)} within {_QUESTION_S:.0f} s",
                        "look at the cluster with: ray status",
                    )
                time.sleep(_POLL_S)
            printed = self.client.get_job_logs(name)
            self.client.delete_job(name)
        return status == "SUCCEEDED", printed

    def stop(self, job: Job) -> None:
        """End a job that has not begun to search; one that has is asked through its directory instead."""
        with self._answering():
            self.client.stop_job(job.id)

    def logs(self, job: Job) -> str:
        """What a job has printed."""
        with self._answering():
            return str(self.client.get_job_logs(job.id))

    def follow(self, job: Job) -> Iterator[str]:
        """What a job has printed, and what it prints, in whole lines, until it ends."""
        told = 0
        while True:
            with self._answering():
                over = str(self.client.get_job_status(job.id).value) in ENDED
            printed = self.logs(job)
            end = len(printed) if over else printed.rfind("\n") + 1
            if end > told:
                yield printed[told:end]
            if over:
                return
            told = max(told, end)
            time.sleep(_FOLLOW_S)

    def _start(
        self, name: str | None, arguments: Sequence[str], runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> str:
        started: str = self.client.submit_job(
            entrypoint=shlex.join(["python", "-m", "vsae_search", *arguments]),
            runtime_env={"env_vars": {"PYTHONUNBUFFERED": "1"}, **runtime_env},
            metadata=dict(metadata),
            submission_id=name,
        )
        return started

    def _refuse_running(self, jobs: Sequence[Job]) -> None:
        running = [job for job in jobs if not job.ended]
        if running:
            raise EnvironmentNotReady(
                f"the sweep {running[-1].sweep} is {running[-1].status.lower()} already: job {running[-1].id} "
                f"at {self.address}",
                f"look at it with: python -m vsae_search logs {running[-1].sweep} --address {self.address}",
            )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell in words what goes wrong between here and the server."""
        from ray.exceptions import AuthenticationError
        from requests import RequestException

        from vsae_search.tracking import mask_secrets

        try:
            yield
        except AuthenticationError as error:
            raise refused(self.address) from error
        except (RequestException, RuntimeError) as error:
            if isinstance(error, EnvironmentNotReady):
                raise
            text = mask_secrets(str(error)).strip().splitlines()
            raise EnvironmentNotReady(
                f"the job server at {self.address} failed: {text[-1][:400] if text else type(error).__name__}",
                "look at the cluster with: ray status",
            ) from error


def json_in(printed: str) -> Any:
    """The JSON value at the end of what a command printed; None when there is none.

    Ray writes lines of its own before it, and messages of the command may stand among them.
    """
    for start in (match.start() for match in re.finditer(r"^[\[{]", printed, re.MULTILINE)):
        try:
            return json.JSONDecoder().raw_decode(printed, start)[0]
        except ValueError:
            continue
    return None


def refused(address: str) -> EnvironmentNotReady:
    """The error of a cluster that does not take the token."""
    return EnvironmentNotReady(
        f"the cluster at {address} refuses the token",
        "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with the cluster's token (~/.ray/auth_token on its head)",
    )


def _job(details: Any) -> Job | None:
    """A job as Ray describes it; None when it is not a sweep."""
    from vsae_search.tracking import mask_secrets

    facts = details.metadata or {}
    sweep, name = facts.get(SWEEP_KEY), details.submission_id or ""
    number = name.removeprefix(f"{PREFIX}-{sweep}-")
    if sweep is None or not number.isdecimal():
        return None
    return Job(
        id=name,
        number=int(number),
        sweep=sweep,
        root=facts.get(ROOT_KEY, ""),
        ships_package=facts.get(PACKAGE_KEY) == "shipped",
        status=str(details.status.value),
        message=mask_secrets(details.message or "").partition("\n")[0],  # what follows are the last lines of its log
        started_ms=details.start_time,
    )
