"""Uploads exported autoencoders to a repository of a model hub."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vsae_search.errors import UserInputError
from vsae_search.subjects.hub import endpoint, hub_errors

if TYPE_CHECKING:
    from vsae_search.export.sweep import Export

CARD_FILE = "README.md"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REFUSED = (401, 403)
_LIBRARIES = {"saelens": "saelens", "dictionary_learning": "dictionary-learning"}


def check_repository(repository: str) -> None:
    """Refuse a name that no repository can have, before anything is done.

    Raises:
        UserInputError: It is not of the form owner/name.
    """
    if not _NAME.fullmatch(repository):
        raise UserInputError(f"{repository!r} is not the name of a repository", "give it as OWNER/REPO")


def push_export(done: Export, repository: str) -> str:
    """Upload every exported folder in one commit; a repository that does not exist is made, private.

    A ``README.md`` with a table of the autoencoders is added where there is none. Files that are there already are
    replaced; others are left alone.

    Args:
        done: What was exported.
        repository: ``owner/name``.

    Returns:
        The address of the commit.

    Raises:
        UserInputError: The hub refuses the token, or the name.
        EnvironmentNotReady: The hub cannot be reached, or answers with an error.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    with hub_errors(repository, "model"):
        try:
            api.create_repo(repository, private=True, exist_ok=True)
            operations = [
                CommitOperationAdd(f"{one.uid}/{name}", one.folder / name)
                for one in done.exported
                for name in one.files
            ]
            if not api.file_exists(repository, CARD_FILE):
                operations.append(CommitOperationAdd(CARD_FILE, model_card(done).encode()))
            message = f"{len(done.exported)} sparse autoencoders of the sweep {done.sweep.name}"
            return str(api.create_commit(repository, operations, commit_message=message).commit_url)
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code not in _REFUSED:
                raise
            raise UserInputError(
                f"{endpoint()} does not let you write to {repository} (HTTP {error.response.status_code})",
                "set HF_TOKEN to a token with write access to that account",
            ) from error


def model_card(done: Export) -> str:
    """The README of a repository: what is in it, and how it is loaded."""
    rows = "\n".join(
        f"| `{one.uid}` | {one.class_name} | {_number(one.l0)} | {_number(one.delta_ce)} |" for one in done.exported
    )
    subject = done.sweep.subject
    what = f"`{subject.get('hook')}` of `{subject.get('model')}`" if subject.get("hook") else f"a {subject.get('kind')}"
    return (
        f"---\nlibrary_name: {_LIBRARIES.get(done.format, done.format)}\ntags:\n- sparse-autoencoder\n---\n\n"
        f"# Sparse autoencoders of {done.sweep.name}\n\n"
        f"They describe {what}. Format: {done.format}. The input scale and the decoder norms are folded in: they take "
        "activations as the model has them.\n\n"
        f"| folder | class | L0 | {done.sweep.loss_name} ({done.sweep.loss_unit}) |\n|---|---|---|---|\n{rows}\n"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
