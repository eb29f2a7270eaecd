"""Language models as subjects: loading, harvesting at a hook, splicing and its losses.

What needs torch is imported when a language model is built: a toy subject that is unpickled does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsae_search.space import LanguageModelSubject
from vsae_search.subjects.registry import builds

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.subjects.base import Subject


@builds(LanguageModelSubject)
def _build(spec: LanguageModelSubject, cache: Path) -> Subject:
    from vsae_search.subjects.language_model.build import build_language_model

    return build_language_model(spec, cache)
