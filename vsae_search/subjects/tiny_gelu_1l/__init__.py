"""The built-in language model: GELU-1L's architecture, small, trained on the source of Python's standard library.

It needs no network and no GPU. ``card.json`` beside this file records how it was trained and what it can do: 3.1 nats
per token on held-out files (2.5 on those that it was trained on, seven times), and 6.6 without its MLP.

The library's text depends a little on the version of Python. Held-out files that another version changed are drawn into
a split anew, and most of them resemble a training file: with Python 3.10, 3.12 and 3.13 the held-out loss is 0.2 to 0.3
nats lower than with 3.11, on whose library the model was trained.
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
