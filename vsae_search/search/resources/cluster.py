"""Starting, or joining, Ray quietly, and letting go of it in every exit path."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search.resources.packing import Packing, fits_cpus, fits_gpus
from vsae_search.search.signals import own_termination

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsae_search.search.resources.packing import Share
    from vsae_search.space import ResourcesSpec

_MAX_TEMP = 40
"""Ray puts sockets 60 characters below its folder, and a socket's path may have 107."""
_SESSIONS = "ray"
_GB = 10**9
_UNLIMITED = 10**6
"""CPUs or GPUs of a cluster without a limit; more trials than that are never run at once."""
_UNREACHABLE = (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError)


@dataclass(frozen=True)
class Cluster:
    """The Ray that a sweep runs on.

    Attributes:
        resources: What it has in all, nodes that its autoscaler may add included: ``CPU``, ``GPU``, ``memory``, ...
        nodes: Number of live nodes.
        logs: Where it writes its logs, on the node of the driver.
        trial_nodes: How many of the nodes have a CPU to give; a head started with ``--num-cpus=0`` has none.
    """

    resources: dict[str, float]
    nodes: int
    logs: str
    trial_nodes: int = 1

    def concurrency(self, spec: ResourcesSpec, trials: int, packing: Packing | None = None) -> int:
        """How many trials run at once: what fits, at most what is asked for, and no more than there are trials.

        Args:
            spec: What the search space says.
            trials: Trials in all.
            packing: What a trial gets; None for the numbers of the search space. With different shares it is the
                smallest that counts: Ray holds the others back by itself.
        """
        shares = (packing or Packing.fixed(spec)).all
        fits = max(self._fits(share) for share in shares)
        return max(1, min(fits, spec.max_concurrent or fits, trials))

    def _fits(self, share: Share) -> int:
        cpus = fits_cpus(self.resources.get("CPU", 0.0), share.cpus)
        return min(cpus, fits_gpus(self.resources.get("GPU", 0.0), share.gpus)) if share.gpus > 0 else cpus

    def missing(self, spec: ResourcesSpec) -> str | None:
        """What a trial asks for and the cluster does not have; None when a trial fits, or its share is measured."""
        share = Packing.fixed(spec).default
        wanted = {"CPU": share.cpus, "GPU": share.gpus}
        short = [
            f"{amount:g} {kind} (the cluster has {self.resources.get(kind, 0):g})"
            for kind, amount in wanted.items()
            if amount > self.resources.get(kind, 0)
        ]
        return " and ".join(short) or None


def require_resources(spec: ResourcesSpec, cluster: Cluster) -> None:
    """Refuse to start trials that would wait for ever.

    Raises:
        EnvironmentNotReady: A trial asks for more than the cluster has.
    """
    missing = cluster.missing(spec)
    if missing is not None:
        raise EnvironmentNotReady(
            f"a trial asks for {missing}", "lower resources.cpus_per_trial or resources.gpus_per_trial"
        )


@contextmanager
def connected(spec: ResourcesSpec, address: str | None = None) -> Iterator[Cluster]:
    """Run with Ray: a local one, or the cluster at an address; one that is already connected is used and left alone.

    Args:
        spec: Resources of the sweep.
        address: Address of a cluster; None starts Ray on this machine.

    Yields:
        The cluster.
    """
    ours = not ray.is_initialized()
    if ours:
        _start(spec, address)
    try:
        with _silenced():
            yield _describe()
    finally:
        if ours:
            ray.shutdown()


def _start(spec: ResourcesSpec, address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        store = {} if spec.object_store_gb is None else {"object_store_memory": int(spec.object_store_gb * _GB)}
        try:
            options |= {"include_dashboard": False, "_temp_dir": str(_temporary()), **store}
            _require_token()
        except OSError as error:
            raise EnvironmentNotReady(
                f"Ray cannot be started: {error}", "its sessions go to TMPDIR or /tmp, its token to ~/.ray/auth_token"
            ) from error
    else:
        _show_token()
    try:
        with own_termination():
            ray.init(address=address or "local", **options)
    except _UNREACHABLE as error:
        if address is None:
            raise
        raise _not_joined(address, error) from error


def _not_joined(address: str, error: Exception) -> EnvironmentNotReady:
    """Why a driver could not join a cluster, with what to do."""
    if isinstance(error, ray.exceptions.AuthenticationError):
        return EnvironmentNotReady(
            f"the Ray cluster at {address} refuses the token",
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token of the cluster",
        )
    lines = str(error).strip().splitlines()
    return EnvironmentNotReady(
        f"the Ray cluster at {address} cannot be joined: {lines[0] if lines else type(error).__name__}",
        "give the HOST:PORT of its head (6379 unless it was changed), from a machine that is one of its nodes; from "
        "any other use: submit --address http://HEAD:8265",
    )


def _show_token() -> None:
    """Have Ray show the token to a cluster that is joined by its address; by itself it does so for local ones only."""
    token = Path.home() / ".ray" / "auth_token"
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not named and token.is_file():
        close_token()
    if "RAY_AUTH_MODE" not in os.environ and (named or token.is_file()):
        os.environ["RAY_AUTH_MODE"] = "token"
        ray._raylet.Config.initialize("")


def _require_token() -> None:
    """Have a Ray that is started here ask every caller for a token, unless the user has set another mode.

    Newer versions of Ray do so by themselves, older ones do not. A cluster is joined as it is.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        ray._raylet.Config.initialize("")  # what Ray has read from the environment when it was imported
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if os.environ["RAY_AUTH_MODE"].lower() == "token" and not named:
        close_token()


def close_token() -> None:
    """Make the token with which Ray lets callers in, or close the one that is there to other users.

    Ray would make it as open as the umask leaves it; here it appears complete and closed, in one step.
    """
    token = Path.home() / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".auth_token.", dir=token.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(temporary, token)
    finally:
        Path(temporary).unlink()
    if token.stat().st_uid == os.getuid():
        token.chmod(0o600)


def _temporary() -> Path:
    """A folder for Ray's sessions that no other user can reach, and short enough for sockets below it.

    Ray opens its folder to everybody, and who can write there can swap a session's folder for one of their own. So it
    gets a child of a folder that is closed.
    """
    name = f"vsae-{os.getuid()}"
    parent = Path(tempfile.gettempdir()) / name
    if len(str(parent / _SESSIONS)) > _MAX_TEMP:
        parent = Path("/tmp") / name  # noqa: S108 - owned by the user and closed to others, as checked below
    with suppress(FileExistsError):
        parent.mkdir(mode=0o700)
    if not _is_closed(parent):
        parent = Path(tempfile.mkdtemp(prefix="vsae-", dir=parent.parent))
    folder = parent / _SESSIONS
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _is_closed(folder: Path) -> bool:
    """Whether this is a folder, not a link to one, that belongs to this user and is closed to all others."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700


def _describe() -> Cluster:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    working = sum(1 for node in nodes if node["Resources"].get("CPU", 0) > 0)
    session = ray._private.worker.global_worker.node.get_logs_dir_path()
    return Cluster(_with_promised(ray.cluster_resources()), len(nodes), str(session), max(1, working))


def _with_promised(resources: dict[str, float]) -> dict[str, float]:
    """What a cluster has, or would have once its autoscaler has started every node that it may."""
    promised = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    kinds = {kind: float(min(promised.get(kind, 0), _UNLIMITED)) for kind in ("CPU", "GPU")}
    return dict(resources) | {kind: most for kind, most in kinds.items() if most > resources.get(kind, 0.0)}


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep Ray's messages off the terminal; its log files have them.

    A lost worker is printed to standard output, which is for results, whatever ``log_to_driver`` says; there is no
    setting for it, so the function that prints is replaced where it exists.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    printer = getattr(ray._private.worker, "print_to_stdstream", None)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if printer is not None:
        ray._private.worker.print_to_stdstream = _to_log
    try:
        yield
    finally:
        if printer is not None:
            ray._private.worker.print_to_stdstream = printer
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Stands in for the function with which Ray prints messages of its processes."""
    del ignore_prefix
    logging.getLogger("ray").info("%s", data)
