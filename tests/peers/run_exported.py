"""Loads autoencoders with the code of SAELens or dictionary_learning, and writes what they compute.

Run where those libraries are installed; nothing of this project is imported:

    .venv-peers/bin/python tests/peers/run_exported.py FOLDER ROWS.safetensors OUT.safetensors

FOLDER holds one folder per autoencoder. OUT gets ``<folder>/code`` and ``<folder>/reconstruction`` for the rows.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import safetensors.torch
import torch


def load(folder):
    """The autoencoder of a folder, loaded by the library that the folder is for."""
    if (folder / "cfg.json").is_file():
        from sae_lens import SAE

        if (folder / "untied_gate_saelens.py").is_file() and "untied_gate_saelens" not in sys.modules:
            sys.path.insert(0, str(folder))
            __import__("untied_gate_saelens")
        return SAE.load_from_disk(folder)
    if (folder / "untied_gate_dictionary.py").is_file():
        sys.path.insert(0, str(folder))
        return __import__("untied_gate_dictionary").UntiedGateAutoEncoder.from_pretrained(str(folder / "ae.pt"))
    # load_dictionary lives beside code for live models and text archives, whose libraries it does not need
    __import__("datasets")  # it looks for zstandard in its own way, and must not find this one
    sys.modules.setdefault("nnsight", types.SimpleNamespace(LanguageModel=object))
    sys.modules.setdefault("zstandard", types.SimpleNamespace())
    from dictionary_learning.utils import load_dictionary

    loaded, config = load_dictionary(str(folder), "cpu")
    assert type(loaded).__name__ == config["trainer"]["dict_class"]
    return loaded


@torch.no_grad()
def main(folder, rows, out):
    """Write code and reconstruction of every autoencoder."""
    x = safetensors.torch.load_file(rows)["x"]
    results = {}
    for path in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
        loaded = load(path)
        code = loaded.encode(x.clone())
        results[f"{path.name}/code"] = code.contiguous()
        results[f"{path.name}/reconstruction"] = loaded.decode(code).contiguous()
    safetensors.torch.save_file(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
