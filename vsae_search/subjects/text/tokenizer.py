"""Tokenizers of the Hugging Face hub, or of a local folder, behind the small interface that the text needs."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsae_search.errors import UserInputError
from vsae_search.subjects.hub import hub_errors, resolve_revision
from vsae_search.subjects.seeds import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_UNLIMITED = 10**30


@dataclass(eq=False)
class HubTokenizer:
    """A tokenizer of the transformers library; small when pickled, since workers load it themselves.

    Attributes:
        name: Repository on the hub, or absolute path of a folder.
        revision: Commit hash; None for a folder.
        bos_id: Token with which every sequence begins: the tokenizer's BOS, or its EOS when it has none.
        eos_id: Token between two documents: the tokenizer's EOS, or its BOS when it has none.
        special_ids: BOS, EOS, padding and all other tokens that stand for no text.
        vocab_size: Number of tokens, including those that were added.
        fingerprint: Sha256 (hex) over everything that determines the tokens of a text.
    """

    name: str
    revision: str | None
    bos_id: int
    eos_id: int
    special_ids: frozenset[int]
    vocab_size: int
    fingerprint: str
    _loaded: Any = field(default=None, repr=False)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without adding special tokens.

        The name of a special token inside a text is text like any other: no document can smuggle in a BOS.
        """
        if not texts:
            return []
        encoded = self._tokenizer()(list(texts), add_special_tokens=False, split_special_tokens=True)
        return [list(ids) for ids in encoded["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens; special tokens appear as themselves."""
        return str(self._tokenizer().decode([int(token) for token in ids], clean_up_tokenization_spaces=False))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def _tokenizer(self) -> Any:
        if self._loaded is None:
            loaded = _load(self.name, self.revision)
            found = _fingerprint(loaded, self.bos_id, self.eos_id, self.special_ids)
            if found != self.fingerprint:
                raise UserInputError(
                    f"the tokenizer {self.name} is not the one with which the work was started",
                    "its files, or the version of the transformers library, differ between the machines",
                )
            self._loaded = loaded
        return self._loaded


def open_tokenizer(name: str, revision: str | None = None) -> HubTokenizer:
    """Load a tokenizer; the code that a repository may bring along is never run.

    Args:
        name: Repository on the Hugging Face hub, or a local folder.
        revision: Commit hash, tag or branch of the repository; None is the main branch.

    Raises:
        UserInputError: There is no such tokenizer, it may not be read, it needs its own code to run, or it has
            neither a BOS nor an EOS token.
        EnvironmentNotReady: The hub cannot be reached, and the tokenizer is not cached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        name, revision = str(folder.resolve()), None
    else:
        revision = resolve_revision(name, revision, "model")
    loaded = _load(name, revision)
    bos, eos = loaded.bos_token_id, loaded.eos_token_id
    bos = eos if bos is None else bos
    if bos is None:
        raise UserInputError(
            f"the tokenizer {name} has neither a BOS nor an EOS token",
            "sequences begin with one of them; choose the tokenizer of a causal language model",
        )
    eos = bos if eos is None else eos
    special_ids = frozenset(int(token) for token in loaded.all_special_ids) | {bos, eos}
    fingerprint = _fingerprint(loaded, bos, eos, special_ids)
    return HubTokenizer(name, revision, bos, eos, special_ids, len(loaded), fingerprint, loaded)


def _load(name: str, revision: str | None) -> Any:
    """Load a tokenizer of the transformers library."""
    from transformers import AutoTokenizer

    try:
        with hub_errors(name, "model", revision):
            tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    except UserInputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise _unusable(name, error) from error
    except Exception as error:  # a damaged tokenizer.json is reported with the base class itself
        if type(error) is not Exception:
            raise
        raise _unusable(name, error) from error
    tokenizer.model_max_length = _UNLIMITED  # documents are longer than the context; they are cut later
    return tokenizer


def _unusable(name: str, error: object) -> UserInputError:
    """Return the error for a tokenizer that cannot be loaded."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "execute the" in text:
        return UserInputError(
            f"the tokenizer {name} works only with code of its own, and code from a repository is never run",
            "choose a model whose tokenizer the transformers library knows",
        )
    logging.getLogger(__name__).debug("tokenizer %s: %s", name, text)
    return UserInputError(
        f"the tokenizer {name} cannot be loaded: {text[:200]}",
        f"a tokenizer needs tokenizer_config.json and one of {', '.join(_FILES)}",
    )


def _fingerprint(tokenizer: Any, bos: int, eos: int, special_ids: frozenset[int]) -> str:
    """Return the digest of the rules of a tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = hashlib.sha256(backend.to_str().encode()).hexdigest()
    else:
        from transformers import __version__

        vocabulary = sorted((token, int(index)) for token, index in tokenizer.get_vocab().items())
        rules = digest([type(tokenizer).__name__, __version__, vocabulary])
    return digest(["tokenizer", rules, bos, eos, sorted(special_ids)])
