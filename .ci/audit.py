"""Looks the pinned versions up in PyPI's advisories: ``python .ci/audit.py``.

A report and no gate: an advisory may appear on any day, without a change in this repository. It always ends with 0,
takes a minute at most, and says so when the advisories cannot be reached.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_S = 60
PROBE = "https://pypi.org/pypi/ray/2.54.0/json"
UNREACHABLE = "skipped, PyPI's advisories cannot be reached"
COMMAND = ("pip_audit", "--no-deps", "--disable-pip", "--requirement", "constraints.txt", "--format", "json")


def reachable(timeout_s: float = 5.0) -> bool:
    """Whether PyPI answers at all; without it every package counts as unknown."""
    try:
        with urllib.request.urlopen(PROBE, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def findings(report: dict[str, Any]) -> list[str]:
    """One line for every advisory.

    Args:
        report: What ``pip-audit --format json`` printed.
    """
    return [
        f"{package['name']} {package['version']}: {advisory['id']}"
        + (f", fixed in {', '.join(advisory['fix_versions'])}" if advisory["fix_versions"] else ", no fix yet")
        for package in report["dependencies"]
        for advisory in package.get("vulns", ())
    ]


def summary(report: dict[str, Any]) -> str:
    """The findings, and how many packages were looked up."""
    known = [package for package in report["dependencies"] if "skip_reason" not in package]
    if not known:
        return UNREACHABLE
    lines = findings(report) or ["no advisory"]
    return "\n".join([*lines, f"{len(known)} of {len(report['dependencies'])} pinned packages looked up"])


def audit() -> str:
    """What there is to say, whatever happens."""
    if not reachable():
        return UNREACHABLE
    words = [sys.executable, "-m", *COMMAND, "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            words, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        return summary(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return f"given up after {LIMIT_S} seconds"
    except ValueError:
        return f"pip-audit ended with {done.returncode}: {done.stderr.strip()[-300:]}"


if __name__ == "__main__":
    sys.stdout.write(f"audit: {audit()}\n")
