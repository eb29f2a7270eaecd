"""Files that run a toy experiment: what they say, what is refused, what decides their results."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from vsae_search.errors import SearchSpaceError, UserInputError
from vsae_search.saes import config_classes
from vsae_search.space import (
    ExperimentSpace,
    GeometryExperiment,
    PhaseTransitionExperiment,
    experiment_schema,
    experiments,
    json_schema,
    load_any,
    load_space,
)

ROOT = Path(__file__).parents[2]
SPACES = ROOT / "search_spaces"
SEEDS = sorted((SPACES / "seeds").glob("*.yaml"))
OURS = [SPACES / "toy_geometry.yaml", SPACES / "toy_phase_transition.yaml"]
CATALOG = config_classes()
GUIDE = (ROOT / "docs" / "search_space.md").read_text()
COMMANDS = (ROOT / "docs" / "seed_commands.md").read_text()
PHASE = """name: x
experiment:
  type: phase_transition
  num_features: 6
  d_hidden: 2
  sparsity: [0.1, 0.9]
  recipes:
    well: {steps: 10}
"""
GEOMETRY = """name: x
experiment:
  type: geometry
  models:
    pair: {d_hidden: 2, features: {count: 4, probability: 0.2, sets: [{kind: anticorrelated, size: 2}]}}
"""


def load(tmp_path, text, **options):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    return load_any(file, CATALOG, **options)


def problems(tmp_path, text):
    with pytest.raises(SearchSpaceError) as refused:
        load(tmp_path, text)
    return [str(problem).removeprefix(f"{tmp_path}/x.yaml:") for problem in refused.value.problems]


@pytest.mark.parametrize("path", [*OURS, *SEEDS], ids=lambda path: path.stem)
def test_a_file_of_the_repository_loads_and_fits_its_schema(path):
    text = path.read_text(encoding="utf-8")
    space = load_any(path, CATALOG)
    assert space.name == ("seed_" if path in SEEDS else "") + path.stem
    is_experiment = isinstance(space, ExperimentSpace)
    schema = experiment_schema() if is_experiment else json_schema(CATALOG)
    jsonschema.Draft202012Validator(schema).validate(YAML(typ="safe", pure=True).load(text))
    there = "experiment.schema.json" if is_experiment else "schema.json"
    assert text.splitlines()[0].endswith(f"$schema={'../' if path in SEEDS else './'}{there}")


def test_the_committed_schema_is_the_generated_one():
    committed = json.loads((SPACES / "experiment.schema.json").read_text())
    hint = "run: python -m vsae_search schema --experiment > search_spaces/experiment.schema.json"
    assert committed == experiment_schema(), hint


def test_the_settings_of_a_phase_transition_are_every_recipe_at_every_sparsity(tmp_path):
    space = load(tmp_path, PHASE.replace("recipes:", "recipes:\n    other: {steps: 5, lr_schedule: constant}"))
    assert isinstance(space.experiment, PhaseTransitionExperiment)
    settings = list(space.experiment.settings())
    assert [(one.arm, one.params["sparsity"], one.recipe.steps) for one in settings] == [
        *(("other", 0.1, 5), ("other", 0.9, 5), ("well", 0.1, 10), ("well", 0.9, 10)),
    ]
    assert settings[1].features.probabilities() == pytest.approx((0.1,) * 6)


def test_the_settings_of_a_geometry_experiment_keep_snapshots(tmp_path):
    space = load(tmp_path, GEOMETRY)
    assert isinstance(space.experiment, GeometryExperiment)
    (setting,) = space.experiment.settings()
    assert (setting.arm, setting.snapshots, setting.expect) == ("pair", 60, None)


def test_only_what_decides_the_trials_is_in_the_digest(tmp_path):
    digest = load(tmp_path, PHASE).digest()
    for more in ("description: y", "resources: {max_concurrent: 1}", "tracking: {tensorboard: true}"):
        assert load(tmp_path, f"{PHASE}{more}\n").digest() == digest
    assert load(tmp_path, PHASE, overrides=["experiment.seeds=9"]).digest() == digest
    assert load(tmp_path, PHASE, overrides=["experiment.d_hidden=3"]).digest() != digest
    assert load(tmp_path, PHASE, overrides=["seed=1"]).digest() != digest


@pytest.mark.parametrize(
    ("old", "new", "place", "what"),
    [
        ("d_hidden", "d_hiden", "5:3", "Did you mean 'd_hidden'"),
        ("[0.1, 0.9]", "[0.9, 0.1]", "6:19", "sparsities rise"),
        ("[0.1, 0.9]", "[0.1, 1.0]", "6:19", "must be less than 1"),
        ("[0.1, 0.9]", "[0.1]", "6:13", "at least two"),
        ("{steps: 10}", "{steps: 0}", "8:19", "must be at least 1"),
        ("{steps: 10}", "{num_rows: 10}", "8:22", "no batch"),
        ("    well", "    We-ll", "8:12", "a name has 1 to 40"),
        ("name: x", "name: X", "1:7", "becomes a directory"),
        ("phase_transition", "phase_transitions", "3:9", "Did you mean 'phase_transition'"),
        ("name: x", "name: x\narchitectures: {}", "2:1", "unknown key"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, old, new, place, what):
    (problem,) = problems(tmp_path, PHASE.replace(old, new))
    assert problem.startswith(f"{place}:"), problem
    assert what in problem


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("d_hidden: 3, expect: polygon", "two dimensions"),
        ("d_hidden: 2, expect: antipodal_pairs", "has none"),
        ("d_hidden: 2, expect: hexagon", "not possible here"),
    ],
)
def test_a_figure_that_cannot_be_there_is_refused(tmp_path, more, what):
    text = (
        f"name: x\nexperiment: {{type: geometry, models: {{a: {{features: {{count: 4, probability: 0.1}}, {more}}}}}}}"
    )
    assert what in problems(tmp_path, text)[0]


def test_an_experiment_is_no_search_space(tmp_path):
    (tmp_path / "x.yaml").write_text(PHASE)
    with pytest.raises(UserInputError, match="trains no autoencoders"):
        load_space(tmp_path / "x.yaml", CATALOG)


@pytest.mark.parametrize(
    "section",
    [
        experiments.ExperimentSpace,
        experiments.PhaseTransitionExperiment,
        experiments.GeometryExperiment,
        experiments.GeometryModel,
        experiments.ToyRecipe,
        experiments.ExperimentResources,
    ],
    ids=lambda section: section.__name__,
)
def test_every_key_has_a_row_in_the_guide(section):
    assert not [name for name in section.model_fields if f"| `{name}` |" not in GUIDE]


# fmt: off
FLAGS = (
    "--vanilla_sae", "--vsae_iso", "--vsae_mix", "--vsae_multi", "--toy_model", "--l1_gelu", "--gpt2_small",
    "--n_features", "--n_hidden", "--n_instances", "--n_correlated_pairs", "--n_anticorrelated_pairs", "--corr_rate",
    "--sae_dim", "--dict_mult", "--l1_coeff", "--kl_coeff", "--var_flag", "--batch_size", "--steps", "--lr",
    "--lr_decay", "--use_tensorboard", "--tensorboard_dir", "--experiment_name", "--run_tests", "--save_model",
    "--load_model", "--output_dir", "--seed", "--use_vsae", "--layer", "--act_name", "--debug", "--n_samples",
    "--context_length", "--device", "--feature_sparsity", "--reconstruction_quality", "--dictionary_similarity",
    "--neuron_activations", "--latent_space", "--experiment-type", "--sparsity", "--sparse-dim", "--dense-dim",
    "--num-samples", "--num-epochs", "--learning-rate", "--random-seed", "--results-dir", "--no-plots",
    "--sae-hidden-dim", "--sae-epochs", "--sae-lr", "--sae-l1", "--sae-ablation",
)
# fmt: on


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_the_seeds_has_a_row(flag):
    assert f"| `{flag}" in COMMANDS


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_every_seed_command_is_in_the_table(path):
    assert f"search_spaces/seeds/{path.name}" in COMMANDS
