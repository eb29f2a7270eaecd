"""Where the text comes from that a language model reads: the ``text`` section of a subject."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vsae_search.space.strict import Refusal, Strict, refusal, refuse

_REPOSITORY = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,249}")
_SHAPE_OF_A_FILE = "a path ends in a file name, such as corpus/*.txt"


def check_repository(name: str) -> str:
    """Accept the name of a repository on the hub, and nothing that could be a path or an address.

    Raises:
        PydanticCustomError: The name is not of the form ``name`` or ``owner/name``.
    """
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".", "-")):
        raise refusal(f"{name!r} is not the name of a repository; it has the form owner/name, such as NeelNanda/c4-10k")
    return name


def check_revision(revision: str | None) -> str | None:
    """Accept a commit hash, tag or branch.

    Raises:
        PydanticCustomError: The revision cannot be one.
    """
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise refusal(f"{revision!r} is not a commit hash, a tag or a branch")
    return revision


class PythonStdlibText(Strict):
    """The source code of Python's own standard library; needs no network and no files."""

    source: Literal["python_stdlib"] = "python_stdlib"
    """Chooses this kind of text."""


class DatasetText(Strict):
    """A dataset on the Hugging Face hub, streamed; code that a repository brings along is never run."""

    source: Literal["dataset"]
    """Chooses this kind of text."""
    name: str
    """Name of the repository, in the form owner/name."""
    config: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of the configuration; left out, the repository's only or default one."""
    split: str = Field(default="train", min_length=1, max_length=200)
    """Name of the repository's own split; the splits for training and evaluation are made from its documents."""
    revision: str | None = None
    """Commit hash, tag or branch; left out, the main branch. The commit is looked up when the sweep starts, and recorded."""  # noqa: E501 - one sentence of documentation is one string
    field: str = Field(default="text", min_length=1, max_length=200)
    """Name of the column with the text; a dataset without it whose column tokens or input_ids holds token numbers is taken as it is."""  # noqa: E501 - one sentence of documentation is one string

    @field_validator("name")
    @classmethod
    def _is_a_repository(cls, name: str) -> str:
        return check_repository(name)

    @field_validator("revision")
    @classmethod
    def _is_a_revision(cls, revision: str | None) -> str | None:
        return check_revision(revision)

    @field_validator("split")
    @classmethod
    def _is_one_whole_split(cls, split: str) -> str:
        if not re.fullmatch(r"\w+(?:[.-]\w+)*", split):
            raise refusal("is the name of one split, such as train; slices and sums of splits cannot be streamed")
        return split


class FilesText(Strict):
    """Files of the machine: plain text (one document per file), JSON, JSON Lines or Parquet (one document per record)."""  # noqa: E501 - one sentence of documentation is one string

    source: Literal["files"]
    """Chooses this kind of text."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files and patterns such as corpus/**/*.txt, in this order; the files of a pattern follow in alphabetical order."""  # noqa: E501 - one sentence of documentation is one string
    field: str = Field(default="text", min_length=1, max_length=200)
    """Name of the column with the text in JSON, JSON Lines and Parquet files; plain text has no columns."""

    @field_validator("paths")
    @classmethod
    def _are_files(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        refusals: list[Refusal] = []
        for index, path in enumerate(paths):
            if text := _refused_path(path):
                refusals.append(((index,), text, path))
            elif path in paths[:index]:
                refusals.append(((index,), f"{path!r} is listed twice", path))
        if refusals:
            refuse("FilesText", refusals)
        return paths


class TokensText(Strict):
    """Text that is already tokenised: a NumPy file of token numbers."""

    source: Literal["tokens"]
    """Chooses this kind of text."""
    path: str
    """A .npy file of whole numbers: one row per sequence, or one flat list in which BOS or EOS tokens separate the documents."""  # noqa: E501 - one sentence of documentation is one string

    @field_validator("path")
    @classmethod
    def _is_an_array(cls, path: str) -> str:
        if text := _refused_path(path):
            raise refusal(text)
        if not path.endswith(".npy"):
            raise refusal(f"{path!r} is not a .npy file; write one with numpy.save")
        return path


def _refused_path(path: str) -> str:
    """Why a path cannot be used, or nothing."""
    if not path.strip():
        return f"is empty; {_SHAPE_OF_A_FILE}"
    if "\0" in path:
        return "a path has no NUL character"
    if "://" in path:
        return f"{path!r} is an address; only files of this machine can be read, and datasets by their name"
    return f"{path!r} is a folder; {_SHAPE_OF_A_FILE}" if path.endswith(("/", "\\")) else ""


TextSpec = Annotated[PythonStdlibText | DatasetText | FilesText | TokensText, Field(discriminator="source")]
"""Any kind of text, told apart by its key ``source``."""
