"""The table of faults in the guide names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = {
    node.name
    for file in (ROOT / "tests").rglob("test_*.py")
    for node in ast.parse(file.read_text()).body
    if isinstance(node, ast.FunctionDef)
}


def rows() -> list[list[str]]:
    """Cells of the table under "Faults"."""
    section = (ROOT / "docs" / "reliability.md").read_text().split("## Faults")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_every_fault_names_tests_that_exist():
    assert len(rows()) > 20
    for fault, what, tests in rows():
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, fault
        assert what
        assert set(named) <= TESTS, fault


def test_every_test_of_a_fault_is_in_the_table():
    named = {name for row in rows() for name in re.findall(r"`(test_\w+)`", row[2])}
    ours = {
        node.name
        for file in Path(__file__).parent.glob("test_*.py")
        if file.name != Path(__file__).name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert ours <= named
