"""Language models as subjects: loading, harvesting at a hook, splicing and its losses."""

from vsae_search.subjects.language_model.build import build_language_model
from vsae_search.subjects.language_model.subject import LanguageModel

__all__ = ["LanguageModel", "build_language_model"]
