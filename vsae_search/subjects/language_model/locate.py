"""Where a model's files are: built in, in a local folder, or on the hub at one commit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vsae_search.errors import UserInputError
from vsae_search.space.subjects import BUILT_IN_MODEL
from vsae_search.space.text import check_repository
from vsae_search.subjects.hub import hub_errors, resolve_revision
from vsae_search.subjects.language_model.legacy import is_legacy, read_config, tokenizer_of

if TYPE_CHECKING:
    from vsae_search.space import LanguageModelSubject

Kind = Literal["built_in", "legacy", "transformers"]

_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_IGNORED = ("*/*", "consolidated*", "*.index.json.bak")  # other formats of the same weights, training checkpoints
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model, named so that every machine finds the same ones.

    Attributes:
        name: What the search space says.
        kind: Who can load them.
        repository: Name on the hub; None for a built-in or local model.
        commit: Commit hash on the hub.
        local: Absolute path of a local folder.
        tokenizer: Repository or folder of the tokenizer; None for the built-in one.
    """

    name: str
    kind: Kind
    repository: str | None = None
    commit: str | None = None
    local: str | None = None
    tokenizer: str | None = None

    def folder(self) -> Path:
        """Return the folder with the files, fetching them when this machine does not have them.

        Raises:
            UserInputError: The repository has no weights that can be read safely.
            EnvironmentNotReady: The hub cannot be reached, and the files are not in the local cache.
        """
        if self.local is not None:
            return Path(self.local)
        assert self.repository is not None, "the built-in model has no folder"
        assert self.commit is not None, "revisions are resolved before files are fetched"
        weights = ("*final.pth",) if self.kind == "legacy" else ("pytorch_model*.bin",)
        folder = _fetch(self.repository, self.commit, ("*.safetensors",))
        if not list(folder.glob("*.safetensors")):
            folder = _fetch(self.repository, self.commit, weights)
        return folder


def locate(spec: LanguageModelSubject) -> ModelFiles:
    """Find a model and pin its revision; fetches the configuration but not the weights.

    Raises:
        UserInputError: There is no such model or revision, or it may not be read.
        EnvironmentNotReady: The hub cannot be reached, and nothing is known from earlier.
        CorruptFile: Its configuration cannot be read.
    """
    if spec.model == BUILT_IN_MODEL:
        return ModelFiles(spec.model, "built_in")
    folder = Path(spec.model).expanduser()
    if folder.is_dir():
        return _local(spec, folder.resolve())
    repository = official_name(spec.model)
    _require_a_name(spec.model, repository)
    commit = resolve_revision(repository, spec.revision, "model")
    config = read_config(_fetch_one(repository, commit, "config.json").parent)
    if is_legacy(config):
        return ModelFiles(spec.model, "legacy", repository, commit, None, tokenizer_of(config))
    return ModelFiles(spec.model, "transformers", repository, commit, None, repository)


def official_name(name: str) -> str:
    """Return the repository for which a name is short in TransformerLens (``gelu-1l``), or the name itself."""
    return _aliases().get(name, name)


@cache
def _aliases() -> dict[str, str]:
    """Read the table of short names without importing TransformerLens, which takes seconds."""
    from importlib.util import find_spec

    found = find_spec("transformer_lens")
    if found is None or not found.submodule_search_locations:
        return {}
    path = Path(found.submodule_search_locations[0], "tools", "model_registry", "data", "model_aliases.json")
    if not path.is_file():
        return {}
    table: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))["aliases"]
    return {alias: official for official, aliases in table.items() for alias in aliases}


def _local(spec: LanguageModelSubject, folder: Path) -> ModelFiles:
    if spec.revision is not None:
        raise UserInputError(
            f"subject.revision is given, and the model {folder} is a local folder",
            "Leave revision out: a folder has no revisions.",
        )
    config = read_config(folder)
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if is_legacy(config):
        tokenizer = str(folder) if has_tokenizer else tokenizer_of(config)
        return ModelFiles(spec.model, "legacy", None, None, str(folder), tokenizer)
    return ModelFiles(spec.model, "transformers", None, None, str(folder), str(folder))


def _require_a_name(given: str, repository: str) -> None:
    try:
        check_repository(repository)
    except ValueError as error:
        raise UserInputError(
            f"subject.model: {given!r} is neither a folder nor the name of a model on the hub",
            f"Use {BUILT_IN_MODEL}, a name such as gpt2 or gelu-1l, or the path of a folder that exists.",
        ) from error


def _fetch(repository: str, commit: str, weights: tuple[str, ...]) -> Path:
    """Fetch the small files and some weights of a repository into the cache of the hub's client."""
    from huggingface_hub import snapshot_download

    with hub_errors(repository, "model", commit):
        return Path(
            snapshot_download(
                repository,
                revision=commit,
                allow_patterns=[*_SMALL_FILES, *weights],
                ignore_patterns=list(_IGNORED),
            )
        )


def _fetch_one(repository: str, commit: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors(repository, "model", commit):
        return Path(hf_hub_download(repository, name, revision=commit))
