"""One Ray Tune session: what a searcher proposes is run in reused workers until it has nothing more to propose."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import tune

from vsae_search.search.fifo import FirstLive
from vsae_search.search.guard import Guarded, InterruptsCallback
from vsae_search.search.signals import Interrupts, SweepStopped, own_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    from vsae_search.search.bridge import LedgerCallback
    from vsae_search.search.resources.packing import Packing
    from vsae_search.search.trial import TrialContext

RAY_FOLDER = "ray"


def run_session(
    trainable: Callable[..., None],
    context: TrialContext,
    searcher: Searcher,
    callback: LedgerCallback,
    *,
    name: str,
    max_concurrent: int,
    scheduler: TrialScheduler | None = None,
    interrupts: Interrupts | None = None,
    on_drain: Callable[[int], None] | None = None,
) -> None:
    """Run a new Tuner; nothing of an earlier one is restored, because the records are the only state.

    A sweep that is asked to stop ends Tune's loop without an exception: the caller sees from its searcher what is left.

    Args:
        trainable: Runs one trial: Tune's configuration, and ``context`` by name.
        context: What all trials share; its directory gets Tune's own files.
        searcher: Proposes trials and is told how they ended.
        callback: Told of starts, rungs and errors.
        name: Name of the session, different for every one of a directory.
        max_concurrent: How many trials run at once.
        scheduler: Decides whether a trial goes on at a rung; None lets every trial run to its end.
        interrupts: What the sweep has been asked to do.
        on_drain: Told, once the sweep has been asked to stop, how many trials are still to finish.
    """
    interrupts = interrupts or Interrupts()
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, context=context), partial(bundle_of, context.packing)),
        tune_config=tune.TuneConfig(
            search_alg=Guarded(searcher, interrupts),
            scheduler=scheduler or FirstLive(),
            num_samples=-1,
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(context.directory / RAY_FOLDER),
            verbose=0,
            callbacks=[InterruptsCallback(interrupts, on_drain), callback],
        ),
    )
    with own_interrupts(), interrupts.looping(), suppress(SweepStopped):
        tuner.fit()
    interrupts.raise_error()


def bundle_of(packing: Packing, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What Ray sets aside for the trial of a configuration."""
    share = packing.share(config["architecture"], config["params"])
    return tune.PlacementGroupFactory([{"CPU": share.cpus, "GPU": share.gpus}])


def trial_name(trial: Any) -> str:
    """Name of a trial in Tune: its uid, and which attempt it is."""
    return f"{trial.config['uid']}-{trial.config['attempt']}-{trial.trial_id}"
