"""The built-in language model: GELU-1L's architecture, small, trained on the source of Python's standard library.

It needs no network and no GPU. ``card.json`` beside this file records how it was trained and what it can do.
"""

from vsae_search.subjects.tiny_gelu_1l.corpus import standard_library_documents
from vsae_search.subjects.tiny_gelu_1l.files import load_card, load_model, load_tokenizer
from vsae_search.subjects.tiny_gelu_1l.model import HOOK_NAMES, OneLayerConfig, OneLayerModel, Point
from vsae_search.subjects.tiny_gelu_1l.tokenizer import ByteTokenizer

__all__ = [
    "HOOK_NAMES",
    "ByteTokenizer",
    "OneLayerConfig",
    "OneLayerModel",
    "Point",
    "load_card",
    "load_model",
    "load_tokenizer",
    "standard_library_documents",
]
