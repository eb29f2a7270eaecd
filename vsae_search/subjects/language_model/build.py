"""From the subject section of a search space to a language-model subject.

Shapes: N rows, S sequences, T positions, D width of the hook.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsae_search.errors import UserInputError
from vsae_search.subjects.language_model.load import ModelIdentity, identify, load
from vsae_search.subjects.language_model.locate import ModelFiles, locate
from vsae_search.subjects.language_model.positions import explained
from vsae_search.subjects.language_model.subject import LanguageModel
from vsae_search.subjects.text import open_text, open_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.space import LanguageModelSubject
    from vsae_search.subjects.language_model.base import CausalModel
    from vsae_search.subjects.text import Tokenizer, TokenSource

_SAMPLE_SEQUENCES = 64
_HIGH_NORM = 10.0  # times the median norm
_TOO_FEW_ROWS = 0.25  # of the positions: then most of the text is special tokens, and something is wrong
_TEXT_FOLDER = "text"


def build_language_model(spec: LanguageModelSubject, cache: Path) -> LanguageModel:
    """Find the model and the text, load the model once, and measure both on a few sequences.

    Raises:
        UserInputError: The model, the hook or the text cannot be used.
        EnvironmentNotReady: The hub cannot be reached, and something is not in its local cache.
        CorruptFile: A file of the model or of the text is damaged.
    """
    files = locate(spec)
    tokenizer = _tokenizer(files)
    identity = identify(files, spec.processing, spec.dtype)
    model = load(identity)
    d_in = model.width(spec.hook_name)
    _require_fit(spec, model, tokenizer)
    text = open_text(
        spec.text, tokenizer, context_length=spec.context_length, cache=cache / _TEXT_FOLDER, seed=spec.seed
    )
    rows_per_sequence = _rows_per_sequence(text, tokenizer)
    subject = LanguageModel(
        spec=spec,
        model=identity,
        text=text,
        special_ids=frozenset(tokenizer.special_ids),
        d_in=d_in,
        rows_per_sequence=rows_per_sequence,
        libraries=_libraries(identity),
        facts={},
    )
    facts = {
        "tokenizer": {
            "name": files.tokenizer or files.name,
            "revision": getattr(tokenizer, "revision", None),
            "vocabulary": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
            "special_ids": sorted(tokenizer.special_ids),
        },
        "restart": model.restart_of(spec.hook_name),
        "sample": _measure(subject, model),
    }
    return LanguageModel(**{**subject.__dict__, "facts": facts})


def _tokenizer(files: ModelFiles) -> Tokenizer:
    if files.kind == "built_in":
        from vsae_search.subjects.tiny_gelu_1l import load_tokenizer

        return load_tokenizer()
    assert files.tokenizer is not None, "only the built-in model has no name for its tokenizer"
    commit = files.commit if files.tokenizer == files.repository else None
    return open_tokenizer(files.tokenizer, commit)


def _require_fit(spec: LanguageModelSubject, model: CausalModel, tokenizer: Tokenizer) -> None:
    """Refuse a context that the model cannot read and a tokenizer of another model."""
    if spec.context_length > model.n_ctx:
        raise UserInputError(
            f"subject.context_length is {spec.context_length}, and {spec.model} reads at most {model.n_ctx} tokens",
            f"Use at most {model.n_ctx}.",
        )
    largest = max(tokenizer.bos_id, tokenizer.eos_id)
    if largest >= model.d_vocab:
        raise UserInputError(
            f"the tokenizer of {spec.model} has the token {largest}, and the model knows only {model.d_vocab}",
            "The folder of the model holds the tokenizer of another one.",
        )


def _rows_per_sequence(text: TokenSource, tokenizer: Tokenizer) -> float:
    """Return the mean number of explained positions in the first training sequences."""
    count = text.available("train", _SAMPLE_SEQUENCES)
    tokens_ST = text.sequences("train", 0, max(1, count))
    kept_ST = explained(tokens_ST, tokenizer.special_ids)
    mean = float(kept_ST.sum(axis=1).mean())
    if mean < _TOO_FEW_ROWS * tokens_ST.shape[1]:
        raise UserInputError(
            f"only {mean:.1f} of {tokens_ST.shape[1]} positions of a sequence hold text; the others are special tokens",
            "Documents may be too short, or the tokenizer does not fit the text.",
        )
    return mean


def _libraries(identity: ModelIdentity) -> dict[str, str]:
    """Return the versions of the libraries that compute activations."""
    names = ["torch"]
    if identity.files.kind == "transformers":
        names += ["transformers", "transformer_lens"]
    return {name: version(name) for name in names}


def _measure(subject: LanguageModel, model: CausalModel) -> dict[str, Any]:
    """Measure losses and norms on held-out sequences; what a sweep reports comes from its evaluation rows."""
    count = min(_SAMPLE_SEQUENCES, subject.text.available("confirm", _SAMPLE_SEQUENCES))
    if count == 0:
        return {"sequences": 0}
    num_rows = max(1, int(count * subject.rows_per_sequence * 0.9))
    rows = subject.harvest(0, num_rows, "confirm")
    baseline = subject.baseline(rows)
    assert rows.tokens_ST is not None, "rows of the confirm split carry their sequences"
    return {
        "split": "confirm",
        "sequences": len(rows.tokens_ST),
        "rows": num_rows,
        "ce_clean": float(baseline.clean_S.mean()),
        "ce_zero": float(baseline.zero_S.mean()),
        "ce_mean": float(baseline.mean_S.mean()),
        **_norms(model, subject.hook, rows.tokens_ST, rows.x_ND),
    }


def _norms(model: CausalModel, hook: str, tokens_ST: NDArray[np.int32], x_ND: NDArray[np.float32]) -> dict[str, float]:
    """Return the norms of the explained rows, and of the first positions, which are left out."""
    norm_N = np.linalg.norm(x_ND.astype(np.float64), axis=1)
    median = float(np.median(norm_N))
    with torch.inference_mode():
        tokens = torch.from_numpy(tokens_ST[:1].astype(np.int64)).to(model.device)
        first = float(model.activations(tokens, hook)[0, 0].float().norm())
    return {
        "median_norm": median,
        "max_norm": float(norm_N.max()),
        "high_norm_fraction": float((norm_N > _HIGH_NORM * median).mean()),
        "first_position_norm": first,
    }
