"""Settings that Ray reads from the environment when it is imported; imported before anything else of this package.

What the user has set already stays as it is.
"""

from __future__ import annotations

import os

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's reporter prints even at verbosity 0
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no log files per trial: most of Tune's overhead per trial
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are in the trials' records
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are never restored: the studies are the state
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the first Ctrl-C lets running trials finish
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
