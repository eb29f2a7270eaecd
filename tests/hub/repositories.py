"""Repositories for the local hub: a tiny GPT-2, a tiny GELU-1L in the legacy format, tiny datasets, a tokenizer.

Every function returns the files of one commit by path. Weights are random, from a fixed seed.
"""

from __future__ import annotations

import io
import json

WORDS = (
    *("the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "tree", "and", "then", "slept"),
    *("red", "blue", "green", "old", "new", "house", "river", "def", "return", "import", "self", "for", "in"),
)
GPT2_SIZE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64}
GELU_1L_SIZE = {"n_layers": 1, "d_model": 16, "d_mlp": 64, "d_head": 8, "n_heads": 2, "n_ctx": 64}


def sentences(count: int, *, seed: int = 0) -> list[str]:
    """Different short documents."""
    import random

    draw = random.Random(seed)
    return [f"{index} " + " ".join(draw.choices(WORDS, k=draw.randint(5, 30))) + "." for index in range(count)]


def tokenizer_files(*, bos: str = "<|BOS|>", eos: str = "<|EOS|>", pad: str = "<|PAD|>") -> dict[str, bytes]:
    """A byte-level BPE tokenizer trained on the words above (about 300 tokens); equal names make one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(dict.fromkeys([eos, bos, pad])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(200, seed=1), trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "model_max_length": 64,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}


def _vocab_size(files: dict[str, bytes]) -> int:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(files["tokenizer.json"].decode()).get_vocab_size()


def gpt2_files(*, seed: int = 0) -> dict[str, bytes]:
    """A random GPT-2 of two layers, in the format of transformers, with its tokenizer (bos = eos = pad)."""
    import torch
    from safetensors.torch import save
    from transformers import GPT2Config, GPT2LMHeadModel

    name = "<|endoftext|>"
    tokenizer = tokenizer_files(bos=name, eos=name, pad=name)
    config = GPT2Config(vocab_size=_vocab_size(tokenizer), bos_token_id=0, eos_token_id=0, **GPT2_SIZE)
    config.architectures = ["GPT2LMHeadModel"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = GPT2LMHeadModel(config).state_dict()
    weights = {key: value.contiguous() for key, value in weights.items() if key != "lm_head.weight"}  # tied
    return {
        "config.json": config.to_json_string(use_diff=False).encode(),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
        **tokenizer,
    }


def gelu_1l_files(tokenizer_name: str, *, seed: int = 0) -> dict[str, bytes]:
    """A random GELU-1L in the format of early TransformerLens repositories: its own config.json, a .pth state dict.

    Args:
        tokenizer_name: Repository of the tokenizer, which such repositories only name.
        seed: Seed of the weights.
    """
    import torch

    size = {**GELU_1L_SIZE, "d_vocab": _vocab_size(tokenizer_files())}
    config = {
        **size,
        "act_fn": "gelu",
        "attn_only": False,
        "normalization": "LN",
        "tokenizer_name": tokenizer_name,
        "model_type": "Full",
        "seed": seed,
        "lr_hidden": 0.002,
        "use_bfloat16_matmul": True,
    }
    buffer = io.BytesIO()
    torch.save(_gelu_1l_weights(size, seed), buffer)
    return {"config.json": json.dumps(config).encode(), "model_final.pth": buffer.getvalue()}


def _gelu_1l_weights(size: dict[str, int], seed: int) -> dict[str, object]:
    import torch

    d, heads, d_head, d_mlp = size["d_model"], size["n_heads"], size["d_head"], size["d_mlp"]
    shapes = {
        "embed.W_E": (size["d_vocab"], d),
        "pos_embed.W_pos": (size["n_ctx"], d),
        "blocks.0.ln1.w": (d,),
        "blocks.0.ln1.b": (d,),
        **{f"blocks.0.attn.W_{name}": (heads, d, d_head) for name in "QKV"},
        **{f"blocks.0.attn.b_{name}": (heads, d_head) for name in "QKV"},
        "blocks.0.attn.W_O": (heads, d_head, d),
        "blocks.0.attn.b_O": (d,),
        "blocks.0.ln2.w": (d,),
        "blocks.0.ln2.b": (d,),
        "blocks.0.mlp.W_in": (d, d_mlp),
        "blocks.0.mlp.b_in": (d_mlp,),
        "blocks.0.mlp.W_out": (d_mlp, d),
        "blocks.0.mlp.b_out": (d,),
        "ln_final.w": (d,),
        "ln_final.b": (d,),
        "unembed.W_U": (d, size["d_vocab"]),
    }
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator) * 0.3 + float(".ln" in f".{name}" and name.endswith("w"))
        for name, shape in shapes.items()
    }
    # Early checkpoints carry the attention's buffers along.
    mask = torch.tril(torch.ones(size["n_ctx"], size["n_ctx"], dtype=torch.bool))
    return {**weights, "blocks.0.attn.mask": mask, "blocks.0.attn.IGNORE": torch.tensor(-1e5)}


def json_lines(documents: list[str], *, field: str = "text") -> bytes:
    """Documents as JSON Lines."""
    return "".join(json.dumps({field: text, "id": i}) + "\n" for i, text in enumerate(documents)).encode()


def parquet(columns: dict[str, list[object]]) -> bytes:
    """Columns as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def dataset_files(count: int = 60, *, form: str = "parquet") -> dict[str, bytes]:
    """A dataset of short documents with a column ``text``, in two files of its split ``train`` and one of ``test``."""
    train, test = sentences(count), sentences(10, seed=2)
    parts = {"train-00000": train[: count // 2], "train-00001": train[count // 2 :], "test-00000": test}
    if form == "parquet":
        files = {f"data/{name}.parquet": parquet({"text": part}) for name, part in parts.items()}
    else:
        files = {f"data/{name}.jsonl": json_lines(part) for name, part in parts.items()}
    return {"README.md": b"---\nlicense: mit\n---\nTiny.\n", **files}


def token_dataset_files(rows: list[list[int]], *, column: str = "tokens") -> dict[str, bytes]:
    """A dataset that is already tokenised, as one Parquet file without a README."""
    return {"data/train-00000-of-00001.parquet": parquet({column: rows})}
