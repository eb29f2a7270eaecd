"""The width of the rows that a subject will have, from its specification alone: for plans that start nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsae_search.space import LanguageModelSubject
from vsae_search.space.subjects import BUILT_IN_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsae_search.space import SubjectSpec

_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "hook_embed")
_NEURONS = ("mlp.hook_post", "mlp.hook_pre")
_STREAM_KEYS = ("d_model", "hidden_size", "n_embd")
_NEURON_KEYS = ("d_mlp", "intermediate_size", "n_inner")


def width_of(spec: SubjectSpec) -> int | None:
    """Return the width of a subject's rows, or None where only loading the model can tell.

    A model on the hub is looked up in the local cache of the hub's client; nothing is fetched.
    """
    if not isinstance(spec, LanguageModelSubject):
        return spec.d_in
    if spec.model == BUILT_IN_MODEL:
        from vsae_search.subjects.tiny_gelu_1l import load_card

        return _width(load_card()["architecture"], spec.hook_name)
    config = _config(spec)
    return None if config is None else _width(config, spec.hook_name)


def _width(config: Mapping[str, Any], hook: str) -> int | None:
    """Read the width of a hook off a model's configuration."""
    stream = next((config[key] for key in _STREAM_KEYS if isinstance(config.get(key), int)), None)
    if hook.endswith(_STREAM):
        return stream
    if hook.endswith(_NEURONS):
        neurons = next((config[key] for key in _NEURON_KEYS if isinstance(config.get(key), int)), None)
        return 4 * stream if neurons is None and stream and config.get("model_type") == "gpt2" else neurons
    return None


def _config(spec: LanguageModelSubject) -> dict[str, Any] | None:
    """Return a model's configuration when it is on this machine."""
    path = Path(spec.model).expanduser() / "config.json"
    if not path.is_file():
        cached = _cached(spec)
        if cached is None:
            return None
        path = cached
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # loading the model reports it
    return config if isinstance(config, dict) else None


def _cached(spec: LanguageModelSubject) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from vsae_search.subjects.language_model.locate import official_name

    try:
        found = try_to_load_from_cache(official_name(spec.model), "config.json", revision=spec.revision)
    except HFValidationError:
        return None  # not a name; loading the model reports it
    return Path(found) if isinstance(found, str) else None
