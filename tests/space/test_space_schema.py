"""The JSON Schema agrees with the loader on the files of this repository and on typical mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from vsae_search.saes import config_classes
from vsae_search.space import json_schema, load_space

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ("toy_geometry", "toy_phase_transition")  # these have a schema and tests of their own
FILES = sorted(path for path in (ROOT / "search_spaces").glob("toy*.yaml") if path.stem not in EXPERIMENTS)


CATALOG = config_classes()


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.fixture
def validator(catalog):
    schema = json_schema(catalog)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_four_files_are_there():
    assert [path.stem for path in FILES] == ["toy", "toy_anticorrelated", "toy_copula", "toy_correlated"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_the_repository_is_valid_and_loads(path):
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=./schema.json"
    jsonschema.Draft202012Validator(json_schema(CATALOG)).validate(read(text))
    space = load_space(path, CATALOG)
    assert space.name == path.stem
    assert len(space.architectures) == (len(CATALOG) if path.stem == "toy" else 4)  # the first one has them all
    features = space.subject.features
    assert 2 <= sum(features.probabilities()) <= 3.5  # sparse: the true L0
    assert features.num_in_sets <= features.count


def test_the_first_sweep_has_correlated_and_anticorrelated_sets():
    space = load_space(ROOT / "search_spaces" / "toy.yaml", CATALOG)
    assert {group.kind for group in space.subject.features.sets} == {"correlated", "anticorrelated"}


def test_the_schema_is_plain_json_and_always_the_same(catalog):
    schema = json_schema(catalog)
    assert json.loads(json.dumps(schema)) == schema
    assert json_schema(dict(reversed(list(catalog.items())))) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_hyper_parameters_are_documented_with_their_defaults(catalog):
    topk = json_schema(catalog)["properties"]["architectures"]["properties"]["topk"]
    assert topk["description"] == "An autoencoder that keeps the k largest latents."
    assert topk["properties"]["k"]["description"] == "Number of latents that fire."
    assert topk["properties"]["k"]["default"] == 4
    assert "d_in" not in topk["properties"]


GOOD_RANGES = [
    "architectures: {topk: {k: {log: [1, 8]}}}",
    "architectures: {topk: {k: {int: [1, 8]}, aux_k: null}}",
    "architectures: {topk: {aux_k: {choice: [null, 3]}}}",
    "architectures: {relu: {l1: {uniform: [0, 1]}, norm: {choice: [unit, free]}, resample: true}}",
    "architectures: {relu: }",
    "architectures: {relu: {l1: 3}}\nshared: {lr: {log: [1e-4, 1]}, k: 3}",
]
BAD_RANGES = [
    "architectures: {}",
    "architectures: {gated: }",
    "architectures: {topk: {kk: 3}}",
    "architectures: {topk: {d_in: 3}}",
    "architectures: {topk: {k: 0}}",
    "architectures: {topk: {k: {uniform: [1, 4]}}}",
    "architectures: {topk: {k: {int: [1]}}}",
    "architectures: {topk: {k: {int: [1, 4], log: [1, 4]}}}",
    "architectures: {topk: {k: {choice: []}}}",
    "architectures: {topk: {k: null}}",
    "architectures: {relu: {l1: {log: [0, 1]}}}",
    "architectures: {relu: {l1: {uniform: [0, 101]}}}",
    "architectures: {relu: {norm: big}}",
    "architectures: {relu: {resample: {int: [0, 1]}}}",
    "architectures: {relu: }\nshared: {q: 3}",
    "architectures: {relu: }\ntraning: {}",
    "architectures: {relu: }\ntraining: {batch_size: 0}",
    "architectures: {relu: }\nseed: x",
]


def document(text: str) -> str:
    return f"name: x\nsubject: {{type: toy_model, d_hidden: 4, features: {{count: 8, probability: 0.1}}}}\n{text}\n"


@pytest.mark.parametrize("text", GOOD_RANGES)
def test_the_schema_accepts(validator, text):
    validator.validate(read(document(text)))


@pytest.mark.parametrize("text", BAD_RANGES)
def test_the_schema_refuses(validator, text):
    assert not validator.is_valid(read(document(text)))
