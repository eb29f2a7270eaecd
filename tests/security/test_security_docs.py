"""The table of threats names tests that exist, and every test of this folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def names_in(folder: Path) -> set[str]:
    """Names of the test functions, and of the methods of test classes."""
    trees = [ast.parse(file.read_text()) for file in folder.rglob("test_*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if node.name.startswith("test_")}


def test_the_table_of_threats_names_tests_that_exist():
    section = (ROOT / "SECURITY.md").read_text().split("## Threats")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    named = set()
    for threat, what, tests in rows:
        found = set(re.findall(r"`(test_\w+)`", tests))
        assert found, threat
        assert what.strip()
        named |= found
    assert named - names_in(ROOT / "tests") == set()
    ours = {name for name in names_in(Path(__file__).parent) if "threats" not in name}
    assert ours - named == set()
