"""Stands in for ``scontrol``, ``srun``, ``ray`` and ``python`` in a run of the batch script.

Every call is appended to ``$CALLS`` as one line of JSON. ``srun`` and ``ray symmetric-run`` run the command that they
are given; ``python -m vsae_search`` ends with ``$DRIVER_CODE`` or, without it, waits for SIGTERM and ends with 143.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time


def record(**what: object) -> None:
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(what) + "\n")


def run(words: list[str]) -> int:
    return subprocess.run(words, check=False).returncode


def drive() -> int:
    if "DRIVER_CODE" in os.environ:
        return int(os.environ["DRIVER_CODE"])

    def end(number: int, _frame: object) -> None:
        record(name="driver", signal=number)
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    record(name="driver", ready=os.getpid())
    time.sleep(60)
    return 1


def main() -> int:
    name, words = os.path.basename(sys.argv[1]), sys.argv[2:]
    if name == "python" and words[0] == "-c":
        return run([sys.executable, *words])
    record(name=name, argv=words, token=os.environ.get("RAY_AUTH_MODE"))
    if name == "scontrol":
        if words[0] == "show":
            sys.stdout.write("node-a\nnode-b\n")
        return 0
    if name == "srun":
        while words[0].startswith("--"):
            words.pop(0)
        return run(words)
    if name == "ray":
        return run(words[words.index("--") + 1 :])
    return drive()


if __name__ == "__main__":
    sys.exit(main())
