"""Text for language models: sources, tokenizers, packing into sequences, splits by document."""

from vsae_search.subjects.text.base import Tokenizer, TokenSource
from vsae_search.subjects.text.source import open_text
from vsae_search.subjects.text.splits import split_of
from vsae_search.subjects.text.tokenizer import open_tokenizer

__all__ = ["TokenSource", "Tokenizer", "open_text", "open_tokenizer", "split_of"]
