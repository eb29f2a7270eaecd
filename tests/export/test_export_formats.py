"""Every architecture in every format: what is written is what the autoencoder computes."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from export_cases import CASES, CLASSES, D_IN, D_SAE, SCALE, facts, make, scaled_rows, write

from vsae_search import saes
from vsae_search.errors import CorruptFile, UnsupportedExport, UserInputError
from vsae_search.export.convert import plain_form
from vsae_search.export.facts import Facts
from vsae_search.export.formats import names, reader, writer
from vsae_search.export.plain import PlainSae


def agree(sae, plain, rows=4096):
    """Reconstructions of unscaled rows to 1e-5, and the same latents firing."""
    x_BD = scaled_rows(rows, seed=1)
    with torch.no_grad():
        f_BF = sae.encode(x_BD)
        expected_BD = sae.decode(f_BF) / SCALE
    found_BF = plain.as_float32().encode(x_BD / SCALE)
    error_B = (plain.as_float32().decode(found_BF) - expected_BD).norm(dim=1) / expected_BD.norm(dim=1)
    assert error_B.max() < 1e-5
    assert (found_BF > 0).sum() == (f_BF > 0).sum() > 0
    return f_BF, found_BF


def test_every_architecture_is_a_case():
    assert {architecture for architecture, _ in CASES.values()} == set(saes.names())
    assert set(CLASSES) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_plain_form_computes_the_same_in_units_of_activation_norm(name):
    sae = make(name)
    plain = plain_form(sae, SCALE)
    f_BF, found_BF = agree(sae, plain)
    torch.testing.assert_close(plain.W_dec_FD.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    norm_F = sae.W_dec.detach().norm(dim=1)
    torch.testing.assert_close(found_BF, f_BF * norm_F / SCALE, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format_name", names(writable=True))
def test_what_is_written_is_read_back_and_computes_the_same(name, format_name, tmp_path):
    sae = make(name)
    written = writer(format_name).write(plain_form(sae, SCALE), facts())
    assert written.class_name == CLASSES[name][format_name == "dictionary_learning"]
    assert written.needs_loader == ("untied" in name)
    read = reader(format_name).read(write(tmp_path / "sae", written))
    agree(sae, read.sae)
    assert (read.class_name, read.hook, read.model) == (written.class_name, "blocks.0.hook_mlp_out", "tiny_gelu_1l")


@pytest.mark.parametrize("format_name", names(writable=True))
def test_the_same_autoencoder_gives_the_same_bytes(format_name):
    first, second = (writer(format_name).write(plain_form(make("topk"), SCALE), facts()) for _ in range(2))
    assert first.files == second.files


def test_the_scale_is_folded_first_and_then_the_decoder_norm():
    """By hand, for one latent of norm 4 at scale 2: W_enc 3 * 2, W_dec 4 / 2; then norm 2 goes to the encoder."""
    plain = PlainSae(
        kind="jumprelu",
        W_enc_DF=torch.tensor([[3.0]]),
        b_enc_F=torch.tensor([0.5]),
        W_dec_FD=torch.tensor([[4.0]]),
        b_dec_D=torch.tensor([1.0]),
        subtracts_b_dec=True,
        threshold_F=torch.tensor([0.25]),
    )
    folded = plain.for_unscaled_inputs(2.0).with_unit_decoder()
    assert [folded.W_enc_DF.item(), folded.W_dec_FD.item(), folded.b_dec_D.item()] == [12.0, 1.0, 0.5]
    assert [folded.b_enc_F.item(), folded.threshold_F.item()] == [1.0, 0.5]
    # x = 1.5: (1.5 - 0.5) 12 + 1 = 13 > 0.5; unfolded: ((3 - 1) 3 + 0.5) 4 + 1 = 27, half of which is 13.5
    assert folded.decode(folded.encode(torch.tensor([[1.5]]))).item() == 13.5


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated", "topk", "vsae_spike_slab_untied"])
@pytest.mark.parametrize("subtracted", [True, False])
def test_the_input_bias_can_be_moved_into_the_other_biases(name, subtracted):
    sae = make(name)
    agree(sae, plain_form(sae, SCALE).with_input_bias(subtracted))


def test_a_latent_that_writes_nothing_gets_a_direction_and_never_fires():
    sae = make("april")
    with torch.no_grad():
        sae.W_dec[4] = 0.0
        sae.b_enc[4] = 5.0
    plain = plain_form(sae, SCALE)
    x_BD = scaled_rows(512).double() / SCALE
    assert plain.W_dec_FD[4].norm() == 1
    assert plain.encode(x_BD)[:, 4].count_nonzero() == 0
    expected_BD = sae.decode(sae.encode(scaled_rows(512))).detach().double() / SCALE
    torch.testing.assert_close(plain.decode(plain.encode(x_BD)), expected_BD, rtol=1e-5, atol=1e-5)


def test_a_free_topk_decoder_is_left_as_it_is():
    plain = plain_form(make("topk"), SCALE)
    stretched = PlainSae(
        kind="topk",
        W_enc_DF=plain.W_enc_DF,
        b_enc_F=plain.b_enc_F,
        W_dec_FD=plain.W_dec_FD * torch.linspace(0.5, 2, D_SAE, dtype=torch.float64)[:, None],
        b_dec_D=plain.b_dec_D,
        subtracts_b_dec=True,
        k=3,
    )
    assert stretched.with_unit_decoder() is stretched


def test_an_architecture_whose_canonical_form_is_not_its_code_is_refused():
    class Squared(saes.get("relu")):
        def encode(self, x_BD):
            return super().encode(x_BD).square()

    sae = Squared(saes.get("relu").Config(d_in=D_IN, d_sae=D_SAE))
    sae.initialise(scaled_rows(64))
    with pytest.raises(UnsupportedExport, match=r"canonical\(\)"):
        plain_form(sae, SCALE)


def test_saelens_files_hold_what_its_loader_reads():
    written = writer("saelens").write(plain_form(make("topk"), SCALE), facts())
    config = json.loads(written.files["cfg.json"])
    assert {key: config[key] for key in ("architecture", "d_in", "d_sae", "dtype", "k", "apply_b_dec_to_input")} == {
        **{"architecture": "topk", "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "k": 3},
        "apply_b_dec_to_input": True,
    }
    assert config["normalize_activations"] == "none"
    assert config["rescale_acts_by_decoder_norm"] is False
    metadata = config["metadata"]
    assert metadata["sae_lens_version"].startswith("6.")
    assert (metadata["hook_name"], metadata["model_name"]) == ("blocks.0.hook_mlp_out", "tiny_gelu_1l")
    assert metadata["dataset_path"] == "python_stdlib"
    origin = metadata["vsae_search"]
    assert (origin["uid"], origin["metrics"]["delta_ce"], origin["folded"]["input_scale"]) == ("topk-0003", 0.25, SCALE)
    tensors = safetensors.torch.load(written.files["sae_weights.safetensors"])
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        **{"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,)},
        **{"W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)},
    }


@pytest.mark.parametrize(
    ("subject", "model", "hook", "loading"),
    [
        ({"kind": "toy_model", "model": "relu_output"}, "toy_model", "toy_model.hidden", False),
        ({"kind": "directions"}, "directions", "directions.activation", False),
        (
            {
                "kind": "language_model",
                "model": "/a/folder",
                "folder": "/a/folder",
                "hook": "h",
                "processing": "folded",
            },
            *("folder", "h", True),
        ),
    ],
)
def test_facts_name_model_and_hook_of_every_subject_and_no_path(subject, model, hook, loading):
    found: Facts = facts(subject=subject)
    assert (found.model, found.hook, bool(found.loading)) == (model, hook, loading)
    assert found.layer is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"normalize_activations": "layer_norm"}, UserInputError, "layer_norm"),
        ({"reshape_activations": "hook_z"}, UserInputError, "attention heads"),
        ({"finetuning_scaling_factor": True}, UserInputError, "fine-tuned"),
        ({"architecture": "temporal"}, UserInputError, "'temporal'"),
        ({"d_sae": D_SAE + 1}, CorruptFile, "W_enc"),
        ({"d_in": "12"}, CorruptFile, "d_in"),
        ({"k": 0}, CorruptFile, "k is 0"),
        ({"apply_b_dec_to_input": 1}, CorruptFile, "apply_b_dec_to_input"),
    ],
)
def test_a_saelens_folder_that_cannot_be_evaluated_is_refused_with_the_reason(change, error, message, tmp_path):
    folder = write(tmp_path / "sae", writer("saelens").write(plain_form(make("topk"), SCALE), facts()))
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(error, match=message):
        reader("saelens").read(folder)


def test_an_earlier_layout_of_saelens_is_read(tmp_path):
    sae = make("topk")
    folder = write(tmp_path / "sae", writer("saelens").write(plain_form(sae, SCALE), facts()))
    config = json.loads((folder / "cfg.json").read_text())
    kept = {key: config[key] for key in ("d_in", "d_sae", "dtype")}
    early = {"hook_point": "blocks.0.hook_mlp_out", "model_name": "m", "normalize_activations": False}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    (folder / "cfg.json").write_text(json.dumps({**kept, **early, **topk}))
    read = reader("saelens").read(folder)
    agree(sae, read.sae)
    assert (read.hook, read.model) == ("blocks.0.hook_mlp_out", "m")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dict_class": "IdentityDict"}, UserInputError, "IdentityDict"),
        ({"dict_size": D_SAE - 1}, CorruptFile, r"encoder\.weight"),
        ({"activation_dim": None}, CorruptFile, "activation_dim"),
    ],
)
def test_a_dictionary_that_cannot_be_evaluated_is_refused_with_the_reason(change, error, message, tmp_path):
    folder = write(tmp_path / "sae", writer("dictionary_learning").write(plain_form(make("topk"), SCALE), facts()))
    config = json.loads((folder / "config.json").read_text())
    config["trainer"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        reader("dictionary_learning").read(folder)


@pytest.mark.parametrize("format_name", names(writable=True))
def test_a_folder_without_the_files_is_refused(format_name, tmp_path):
    with pytest.raises(UserInputError, match="check the path"):
        reader(format_name).read(tmp_path)


class Payload:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "sae", writer("dictionary_learning").write(plain_form(make("relu"), SCALE), facts()))
    torch.save({"bias": Payload()}, folder / "ae.pt")
    with pytest.raises(UserInputError, match="could run code"):
        reader("dictionary_learning").read(folder)
    torch.save({"state_dict": Payload()}, tmp_path / "sae.pt")
    with pytest.raises(UserInputError, match="could run code"):
        reader("spar").read(tmp_path / "sae.pt")
    assert "never" not in capsys.readouterr().out


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    folder = write(tmp_path / "sae", writer("saelens").write(plain_form(make("relu"), SCALE), facts()))
    tensors = safetensors.torch.load_file(folder / "sae_weights.safetensors")
    tensors["b_enc"][0] = float("nan")
    safetensors.torch.save_file(tensors, folder / "sae_weights.safetensors")
    with pytest.raises(CorruptFile, match="b_enc"):
        reader("saelens").read(folder)


@pytest.mark.parametrize("variational", [True, False])
def test_a_checkpoint_of_spar_is_read_by_its_posterior_mean(variational, tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    if variational:
        shapes |= {"W_enc_var": (D_IN, D_SAE), "b_enc_var": (D_SAE,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    config = {"d_input": D_IN, "dtype": torch.float32, "kl_coeff" if variational else "l1_coeff": 3e-4}
    path = tmp_path / "sae_gpt2small_l3_post_20250101-000000.pt"
    torch.save({"state_dict": state, "config": config, "args": {"lr": 1e-4}, "layer": 3, "act_name": "post"}, path)
    read = reader("spar").read(path)
    x_BD = torch.randn(64, D_IN, generator=generator)
    code_BF = ((x_BD - state["b_dec"]) @ state["W_enc"] + state["b_enc"]).relu()
    torch.testing.assert_close(read.sae.as_float32().encode(x_BD), code_BF, rtol=1e-5, atol=1e-5)
    assert (read.class_name, read.model) == ("VSAE" if variational else "SAE", "gpt2")
    assert read.hook == "blocks.3.mlp.hook_post"


def test_what_is_no_checkpoint_of_spar_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserInputError, match="no checkpoint of SPAR"):
        reader("spar").read(tmp_path / "other.pt")
    with pytest.raises(UserInputError, match="not a file"):
        reader("spar").read(tmp_path)


def test_unknown_formats_are_refused_with_a_suggestion():
    with pytest.raises(UserInputError, match="saelens"):
        writer("sae_lens")
    with pytest.raises(UserInputError, match="unknown format"):
        writer("spar")  # it is only read
