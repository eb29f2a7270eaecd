"""What the README and the guides show works: links, commands and search spaces."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from vsae_search.cli.app import build_app
from vsae_search.saes import config_classes
from vsae_search.space import load_any

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "cluster/*.md", "benchmarks/*.md", "reports/*.md")
    for path in ROOT.glob(pattern)
)
COMMAND = re.compile(r"python -m vsae_search ([^`\n#]+)")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_nothing_is_left_open(page):
    text = page.read_text()
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [target for target in targets if target and "://" not in target and not (page.parent / target).exists()]
    assert not missing
    assert not re.findall(r"@[A-Z]{2,}@|\bTODO\b|\bTBD\b", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_search_spaces_in_the_text_are_valid(page, tmp_path):
    for number, text in enumerate(blocks(page, "yaml")):
        if text.startswith("name:"):
            file = tmp_path / f"{number}.yaml"
            file.write_text(text)
            load_any(file, config_classes())


def test_the_readme_shows_a_whole_search_space():
    assert any(text.startswith("name:") for text in blocks(ROOT / "README.md", "yaml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_exist_with_their_options(page):
    group = typer.main.get_command(build_app())
    for line in COMMAND.findall(page.read_text()):
        words = [word for word in shlex.split(line.replace("'", "").replace('"', "")) if word not in ("...",)]
        while words and words[0].startswith("-"):
            words.pop(0)
        if not words or not words[0].isalpha():
            continue
        command = group.commands[words[0]]
        known = {option for parameter in command.params for option in getattr(parameter, "opts", [])}
        assert {word.split("=")[0] for word in words if word.startswith("-")} <= known
