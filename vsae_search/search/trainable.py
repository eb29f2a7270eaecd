"""The Ray Tune trainable: runs trials one after the other in the same worker process and reports their records."""

from __future__ import annotations

import gc
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray import tune

from vsae_search.search.assignment import Assignment
from vsae_search.search.trial import TrialContext, TrialRun
from vsae_search.space.secrets import mask_secrets

if TYPE_CHECKING:
    from vsae_search.search.records import TrialRecord
    from vsae_search.search.resources.packing import Share


def run_trial(config: dict[str, Any], context: TrialContext) -> None:
    """Ray Tune's function trainable: run the trial in ``config`` and report its record at every rung and at the end.

    An unexpected exception is reported as a failed attempt and then raised: Tune drops the process, so that whatever
    broke it (a lost GPU, say) does not break the trials after it.
    """
    assignment = Assignment(**config)
    context = context.of(assignment)
    _prepare_process(context.share, assignment.seed)
    trial = TrialRun(assignment, context, _report)
    try:
        _report(trial.run())
    except Exception as error:  # the boundary of a trial: recorded, then handed to Tune
        _report(trial.failed(error))
        text = "".join(traceback.format_exception(error))
        if mask_secrets(text) != text:  # Tune writes what is raised to the sweep directory
            raise RuntimeError(mask_secrets(text)) from None
        raise


def _report(record: TrialRecord) -> None:
    tune.report(as_result(record))


def as_result(record: TrialRecord) -> dict[str, Any]:
    """What a trial tells Tune: the record as one string, and the numbers that a scheduler needs beside it."""
    result: dict[str, Any] = {
        "uid": record.uid,
        "state": record.state,
        "rung": len(record.rungs) - 1,
        "record": record.model_dump_json(),
    }
    return result | {key: record.metrics[key] for key in ("l0", "delta_ce") if key in record.metrics}


def _prepare_process(share: Share, seed: int) -> None:
    """Make a worker that has run other trials as good as new."""
    _collect_garbage()
    torch.set_num_threads(share.threads)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nothing of ours uses the global generator, a library might
    if share.gpus > 0:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(share.memory_fraction)


def _collect_garbage() -> None:
    """Free what the trial before left; the libraries' objects are set aside once, or it takes a tenth of a second."""
    gc.collect()
    if gc.get_freeze_count() == 0:
        gc.freeze()
