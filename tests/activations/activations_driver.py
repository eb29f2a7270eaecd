"""A driver of its own: builds a bank on a standing cluster, says so, and waits to be killed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import activations_fakes
import ray

from vsae_search.activations import build_bank
from vsae_search.space import ActivationsSpec


def main(address: str, log: str, banks: str, sizes: str) -> None:
    ray.cloudpickle.register_pickle_by_value(activations_fakes)
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    subject = activations_fakes.FakeSubject(log=Path(log))
    bank = build_bank(subject, ActivationsSpec(**json.loads(sizes)), Path(banks))
    sys.stdout.write(json.dumps({"owner": bank.owner}) + "\n")
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
