"""Small language models with random weights, made on the spot, and the subjects that read with them."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from pathlib import Path

import torch

from vsae_search.space import LanguageModelSubject
from vsae_search.subjects import build_subject
from vsae_search.subjects.tiny_gelu_1l.corpus import standard_library_documents
from vsae_search.subjects.tiny_gelu_1l.tokenizer import BOS, train_tokenizer

VOCABULARY = 300
CONTEXT = 24
LEGACY_CONFIG = {
    "n_layers": 1,
    "d_model": 16,
    "d_mlp": 64,
    "d_head": 4,
    "n_heads": 4,
    "n_ctx": 32,
    "d_vocab": VOCABULARY,
    "act_fn": "gelu",
    "attn_only": False,
    "normalization": "LN",
    "final_rms": False,
    "shortformer_pos": False,
    "tokenizer_name": "nobody/nothing",
}


@functools.cache
def home() -> Path:
    """One folder for the models of a test run; removed with the process."""
    folder = tempfile.TemporaryDirectory(prefix="vsae-lm-")
    home.folder = folder
    return Path(folder.name)


@functools.cache
def text_files() -> str:
    """A pattern of small text files, so that no test has to tokenise the whole standard library."""
    folder = home() / "text"
    folder.mkdir()
    for index, document in enumerate(itertools.islice(standard_library_documents(), 160)):
        (folder / f"{index:04}.txt").write_text(document[:6000], encoding="utf-8")
    return str(folder / "*.txt")


def save_tokenizer(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = train_tokenizer(itertools.islice(standard_library_documents(), 20), VOCABULARY)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token=BOS, eos_token=BOS).save_pretrained(folder)


@functools.cache
def gpt2() -> Path:
    """A GPT-2 of three blocks in the format of the transformers library."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=16,
        n_layer=3,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    folder = home() / "gpt2"
    GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@functools.cache
def neox() -> Path:
    """A GPT-NeoX, whose attention and MLP both read the block's input."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    folder = home() / "neox"
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def legacy_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a GELU-1L with everything that matters away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    d, m, h, k, v = 16, 64, 4, 4, VOCABULARY
    block = "blocks.0."
    shapes = {
        "embed.W_E": (v, d),
        "pos_embed.W_pos": (32, d),
        **{f"{block}attn.W_{name}": (h, d, k) for name in "QKV"},
        **{f"{block}attn.b_{name}": (h, k) for name in "QKV"},
        f"{block}attn.W_O": (h, k, d),
        f"{block}attn.b_O": (d,),
        f"{block}mlp.W_in": (d, m),
        f"{block}mlp.b_in": (m,),
        f"{block}mlp.W_out": (m, d),
        f"{block}mlp.b_out": (d,),
        "unembed.W_U": (d, v),
    }
    weights = {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for norm in (f"{block}ln1", f"{block}ln2", "ln_final"):
        weights[f"{norm}.w"] = 1 + 0.3 * torch.randn(d, generator=generator)
        weights[f"{norm}.b"] = 0.3 * torch.randn(d, generator=generator)
    return weights


def save_legacy(folder: Path, weights: dict[str, torch.Tensor], **config: object) -> Path:
    """Write a repository as NeelNanda's are: config.json and model_final.pth, here with the tokenizer beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LEGACY_CONFIG, **config}))
    buffers = {"blocks.0.attn.mask": torch.ones(32, 32).tril().bool(), "blocks.0.attn.IGNORE": torch.tensor(-1e5)}
    torch.save({**weights, **buffers}, folder / "model_final.pth")
    return folder


@functools.cache
def legacy() -> Path:
    folder = save_legacy(home() / "legacy", legacy_weights())
    save_tokenizer(folder)
    return folder


def spec(model: Path, hook: str = "blocks.0.hook_mlp_out", **changes: object) -> LanguageModelSubject:
    settings = {"context_length": CONTEXT, "harvest_batch": 8, "text": {"source": "files", "paths": (text_files(),)}}
    return LanguageModelSubject.model_validate(
        {"type": "language_model", "model": str(model), "hook": hook, **settings, **changes}
    )


@functools.cache
def subject(model: Path, hook: str = "blocks.0.hook_mlp_out", **changes: object):
    return build_subject(spec(model, hook, **changes), home() / "cache")
