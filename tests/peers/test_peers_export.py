"""Autoencoders that other libraries saved are read as those compute, and written with the tensors that those save.

The fixtures come from ``make_export_fixtures.py``. Where the libraries themselves are installed (``.venv-peers``), what
is exported is also loaded by their own code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "export"))

from export_cases import CASES, SCALE, facts, make, scaled_rows, write  # noqa: E402

from vsae_search.export.convert import plain_form  # noqa: E402
from vsae_search.export.formats import names, reader, writer  # noqa: E402
from vsae_search.subjects.language_model.checkpoint import read_tensors  # noqa: E402

FIXTURES = HERE / "fixtures" / "exports"
ANSWERS = json.loads((FIXTURES / "answers.json").read_text())
SAVED = sorted(name for name in ANSWERS if name != "x")
PEERS = HERE.parents[1] / ".venv-peers" / "bin" / "python"


def format_of(name):
    return next(one for one in names(writable=True) if name.startswith(one))


@pytest.mark.parametrize("name", SAVED)
def test_what_a_library_saved_is_read_as_it_computes(name):
    read = reader(format_of(name)).read(FIXTURES / name)
    x_BD = torch.tensor(ANSWERS["x"], dtype=torch.float64)
    code_BF = read.sae.encode(x_BD)
    expected_BD = torch.tensor(ANSWERS[name]["reconstruction"], dtype=torch.float64)
    torch.testing.assert_close(read.sae.decode(code_BF), expected_BD, rtol=1e-5, atol=1e-6)
    theirs_BF = torch.tensor(ANSWERS[name]["code"], dtype=torch.float64)
    assert ((code_BF > 0) == (theirs_BF > 0)).all()
    if not name.endswith("topk_rescaled"):  # its code is in units of decoder norm
        torch.testing.assert_close(code_BF, theirs_BF, rtol=1e-5, atol=1e-6)
    if name.startswith("dictionary_learning") or "batch_topk" not in name:
        assert read.hook == "blocks.0.hook_mlp_out"


@pytest.mark.parametrize("name", SAVED)
def test_what_a_library_saved_is_written_with_the_same_tensors(name, tmp_path):
    """Read and written again without any fold, the tensors are those of the library, bit for bit."""
    if name == "saelens_topk_rescaled":
        pytest.skip("is written without the rescaling, which changes its tensors")
    format_name = format_of(name)
    read = reader(format_name).read(FIXTURES / name)
    folder = write(tmp_path / name, writer(format_name).write(read.sae, facts()))
    if format_name == "saelens":
        ours = safetensors.torch.load_file(folder / "sae_weights.safetensors")
        theirs = safetensors.torch.load_file(FIXTURES / name / "sae_weights.safetensors")
        config, expected = (json.loads((place / "cfg.json").read_text()) for place in (folder, FIXTURES / name))
        assert {key: config.get(key) for key in expected if key != "metadata"} == {
            key: value for key, value in expected.items() if key != "metadata"
        }
    else:
        ours, theirs = (read_tensors(place / "ae.pt") for place in (folder, FIXTURES / name))
        if name.endswith("_topk") and "batch" not in name:
            assert ours["threshold"] == theirs["threshold"] == -1
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype, key
        assert torch.equal(ours[key], tensor), key


@pytest.mark.skipif(not PEERS.is_file(), reason="needs benchmarks/setup_peers.sh")
@pytest.mark.parametrize("format_name", names(writable=True))
def test_every_architecture_is_loaded_by_the_library_and_computes_the_same(format_name, tmp_path):
    folder, made = tmp_path / "out", {name: make(name) for name in CASES}
    for name, sae in made.items():
        write(folder / name, writer(format_name).write(plain_form(sae, SCALE), facts()))
    x_BD = scaled_rows(4096, seed=4)
    safetensors.torch.save_file({"x": x_BD / SCALE}, tmp_path / "rows")
    command = [str(PEERS), str(HERE / "run_exported.py"), str(folder), str(tmp_path / "rows"), str(tmp_path / "codes")]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    theirs = safetensors.torch.load_file(tmp_path / "codes")
    for name, sae in made.items():
        with torch.no_grad():
            f_BF = sae.encode(x_BD)
            expected_BD = sae.decode(f_BF) / SCALE
        error_B = (theirs[f"{name}/reconstruction"] - expected_BD).norm(dim=1) / expected_BD.norm(dim=1)
        assert error_B.max() < 1e-5, name
        assert (theirs[f"{name}/code"] > 0).sum() == (f_BF > 0).sum() > 0, name
