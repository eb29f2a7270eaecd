"""The report on known holes in dependencies: what it says, and that it never stands in the way."""

from __future__ import annotations

import json
import runpy
import subprocess
import urllib.request
from types import SimpleNamespace

import pytest
from manifests import ROOT

REPORT = {
    "dependencies": [
        {"name": "ray", "version": "2.53.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.54.0"]}]},
        {"name": "left", "version": "1.0", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]},
        {"name": "fine", "version": "2.0", "vulns": []},
        {"name": "unknown", "skip_reason": "not found"},
    ]
}


@pytest.fixture
def script():
    return runpy.run_path(str(ROOT / ".ci/audit.py"))


def answers(monkeypatch, script, result) -> str:
    """What the script says when pip-audit does this."""

    def run(*_args, **_options):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setitem(script["audit"].__globals__, "reachable", lambda: True)
    monkeypatch.setattr(subprocess, "run", run)
    return script["audit"]()


def test_advisories_are_named_with_their_fix(monkeypatch, script):
    done = SimpleNamespace(stdout=json.dumps(REPORT), stderr="", returncode=1)
    said = answers(monkeypatch, script, done).splitlines()
    assert said[:2] == ["ray 2.53.0: PYSEC-1, fixed in 2.54.0", "left 1.0: PYSEC-2, no fix yet"]
    assert said[2] == "3 of 4 pinned packages looked up"


def test_nothing_known_is_not_nothing_wrong(monkeypatch, script):
    unknown = {"dependencies": [{"name": "x", "skip_reason": "not found"}]}
    done = SimpleNamespace(stdout=json.dumps(unknown), stderr="", returncode=0)
    assert answers(monkeypatch, script, done) == "skipped, PyPI's advisories cannot be reached"


def test_trouble_is_told_and_passes(monkeypatch, script):
    late = subprocess.TimeoutExpired("pip-audit", 60)
    assert answers(monkeypatch, script, late) == "given up after 60 seconds"
    broken = SimpleNamespace(stdout="", stderr="no such option", returncode=2)
    assert answers(monkeypatch, script, broken) == "pip-audit ended with 2: no such option"


def test_without_a_network_it_is_skipped(monkeypatch, script):
    def refuse(*_args, **_options):
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert script["audit"]() == "skipped, PyPI's advisories cannot be reached"


def test_the_checks_run_it_and_do_not_depend_on_it():
    steps = (ROOT / ".ci/run").read_text()
    assert "make audit || true" in steps
    assert "audit: setup" in (ROOT / "Makefile").read_text()
