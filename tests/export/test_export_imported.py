"""An autoencoder from elsewhere is measured as the trials of a sweep are, and refused where it does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from export_cases import facts, write

from vsae_search import saes
from vsae_search.activations.files import digest
from vsae_search.activations.harvest import harvest_arrays
from vsae_search.activations.manifest import bank_requests
from vsae_search.errors import CorruptFile, EnvironmentNotReady, UserInputError
from vsae_search.evaluation import evaluate
from vsae_search.export.convert import plain_form
from vsae_search.export.formats import writer
from vsae_search.export.imported import PlainEncoder, evaluation_rows, import_sae
from vsae_search.report.references import ImportedSae, read_references
from vsae_search.saes import config_classes
from vsae_search.search import SweepRecord, load_sweep
from vsae_search.search.records import read_record, write_record
from vsae_search.space import load_space
from vsae_search.subjects import build_subject

SPACE = """
name: tiny
subject: {type: directions, d_in: 8, features: {count: 12, probability: 0.1}}
activations: {num_tokens: 512, evaluation_tokens: 256, calibration_tokens: 64, shard_tokens: 512}
training: {num_tokens: 512, batch_size: 128}
shared: {d_sae: 16}
architectures: {topk: {k: 2}}
search: {trials: 1}
"""
SCALE = 1.75


@pytest.fixture(scope="module")
def harvested(tmp_path_factory):
    """A sweep on known directions that has no trials, and its subject."""
    root = tmp_path_factory.mktemp("root")
    (root / "space.yaml").write_text(SPACE)
    space = load_space(root / "space.yaml", config_classes())
    subject = build_subject(space.subject, root / ".bank")
    arrays = harvest_arrays(subject, bank_requests(subject.fingerprint, space.activations)[-1])
    record = SweepRecord(
        name="tiny",
        digest="ab",
        seed=0,
        status="completed",
        subject=subject.describe(),
        bank={"scale": SCALE, "key": "k", "evaluation_digest": digest(arrays)},
        space=space.model_dump(mode="json"),
    )
    (root / "tiny").mkdir()
    write_record(root / "tiny" / "sweep.json", record)
    return root / "tiny", subject


@pytest.fixture
def sweep(harvested, tmp_path):
    """A copy of its own for a test."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "sweep.json").write_bytes((harvested[0] / "sweep.json").read_bytes())
    return directory


def make(name="topk", **params):
    sae = saes.create(name, seed=1, d_in=8, d_sae=16, **params)
    sae.initialise(torch.randn(64, 8, generator=torch.Generator().manual_seed(2)))
    return sae


def folder_of(sae, tmp_path, format_name="saelens", **changes):
    place = {"subject": {"kind": "directions"}, **changes}
    return write(tmp_path / "elsewhere", writer(format_name).write(plain_form(sae, SCALE), facts(**place)))


@pytest.mark.parametrize("format_name", ["saelens", "dictionary_learning"])
def test_an_exported_autoencoder_gets_the_numbers_of_the_original(sweep, harvested, tmp_path, format_name):
    sae, subject = make(k=2), harvested[1]
    done = import_sae(sweep, folder_of(sae, tmp_path, format_name), format_name, label="mine")
    rows = evaluation_rows(subject, load_sweep(sweep)[0], sweep)
    expected = evaluate(sae, rows, scale=SCALE, subject=subject, baseline=subject.baseline(rows)).metrics
    assert done.record.metrics.keys() == expected.keys()
    assert done.record.metrics["l0"] == expected["l0"] == 2.0
    for key, value in expected.items():
        assert done.record.metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    assert read_references(sweep, done.record.evaluation_digest) == (done.record,)
    assert read_references(sweep, "other rows") == ()


def test_a_decoder_of_any_norm_is_measured_in_units_of_activation_norm():
    plain = plain_form(make("april"), SCALE)
    encoder = PlainEncoder(plain, SCALE)
    x_BD = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    sae = make("april")
    norm_F = sae.W_dec.detach().norm(dim=1)
    torch.testing.assert_close(encoder.encode(x_BD), sae.encode(x_BD).detach() * norm_F)
    torch.testing.assert_close(encoder.decode(encoder.encode(x_BD)), sae(x_BD).detach())


def test_the_same_import_again_changes_nothing_and_another_one_needs_another_label(sweep, tmp_path):
    folder = folder_of(make(k=2), tmp_path / "a")
    first = import_sae(sweep, folder, "saelens", label="mine")
    before = first.path.read_bytes()
    assert import_sae(sweep, folder, "saelens", label="mine").path.read_bytes() == before
    other = folder_of(make(k=3), tmp_path / "b")
    with pytest.raises(UserInputError, match="with other weights"):
        import_sae(sweep, other, "saelens", label="mine")
    import_sae(sweep, other, "saelens", label="theirs")
    assert [one.label for one in read_references(sweep, None)] == ["mine", "theirs"]


def test_another_width_is_refused(sweep, tmp_path):
    sae = saes.create("relu", d_in=9, d_sae=16)
    sae.initialise(torch.randn(64, 9))
    with pytest.raises(UserInputError, match="width 9; those of tiny have 8"):
        import_sae(sweep, folder_of(sae, tmp_path), "saelens", label="mine")
    assert not (sweep / "references").exists()


def language_sweep(sweep):
    record = read_record(sweep / "sweep.json", SweepRecord)
    subject = {**record.subject, "hook": "blocks.3.hook_mlp_out", "model": "gpt2"}
    write_record(sweep / "sweep.json", record.model_copy(update={"subject": subject}))


def test_another_hook_is_refused_unless_it_is_asked_for(sweep, tmp_path):
    language_sweep(sweep)
    folder = folder_of(make(k=2), tmp_path, subject=facts().subject)
    with pytest.raises(UserInputError, match=r"blocks\.0\.hook_mlp_out; tiny explains blocks\.3\.hook_mlp_out"):
        import_sae(sweep, folder, "saelens", label="mine")
    done = import_sae(sweep, folder, "saelens", label="mine", check_hook=False)
    assert done.note == "it says it was trained on the model tiny_gelu_1l; tiny explains gpt2"


def test_a_file_that_names_no_hook_is_taken_at_its_width(sweep, tmp_path):
    language_sweep(sweep)
    folder = folder_of(make(k=2), tmp_path, "dictionary_learning", subject=facts().subject)
    config = json.loads((folder / "config.json").read_text())
    config["trainer"] |= {"submodule_name": "a name of its own", "lm_name": "gpt2"}
    (folder / "config.json").write_text(json.dumps(config))
    done = import_sae(sweep, folder, "dictionary_learning", label="mine")
    assert (done.record.hook, done.note) == (None, "")


@pytest.mark.parametrize("label", ["", "../x", "a b", "-x", "x" * 61])
def test_a_label_that_is_no_file_name_is_refused(sweep, tmp_path, label):
    with pytest.raises(UserInputError, match="label"):
        import_sae(sweep, tmp_path, "saelens", label=label)


def test_a_sweep_without_activations_is_not_ready(sweep, tmp_path):
    record = read_record(sweep / "sweep.json", SweepRecord)
    write_record(sweep / "sweep.json", record.model_copy(update={"bank": {}}))
    with pytest.raises(EnvironmentNotReady, match="has not harvested"):
        import_sae(sweep, tmp_path, "saelens", label="mine")


def test_rows_that_come_out_differently_are_never_used(sweep, harvested):
    record = load_sweep(sweep)[0]
    changed = record.model_copy(update={"bank": {**record.bank, "evaluation_digest": "0" * 64}})
    with pytest.raises(CorruptFile, match="different rows"):
        evaluation_rows(harvested[1], changed, sweep)


def test_the_record_is_strict():
    with pytest.raises(ValueError, match="label"):
        ImportedSae.model_validate({"format": "saelens"})
