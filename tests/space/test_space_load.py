"""Files that are accepted, and assignments on the command line."""

from __future__ import annotations

import pytest

from vsae_search.errors import SearchSpaceError
from vsae_search.space import (
    ChoiceRange,
    ConstantRange,
    IntRange,
    LogRange,
    SearchSpace,
    ToyModelSubject,
    UniformRange,
    load_space,
)


@pytest.fixture
def load(tmp_path, catalog, good_text):
    def _load(*overrides, text=good_text):
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return load_space(path, catalog, overrides=overrides)

    return _load


def refusals(load, *overrides, **kwargs):
    with pytest.raises(SearchSpaceError) as caught:
        load(*overrides, **kwargs)
    return [(p.file, p.line, p.column, p.message) for p in caught.value.problems]


def test_a_small_file_gets_all_defaults(load):
    space = load()
    assert isinstance(space.subject, ToyModelSubject)
    assert (space.seed, space.search.trials, space.search.sampler) == (0, 48, "auto")
    assert space.training.rungs == (0.25, 0.5, 1.0)
    assert space.training.num_steps == 976  # 1 000 000 / 1024, the incomplete last batch dropped
    assert space.objectives.reference is None


def test_shared_ranges_reach_the_architectures_that_have_the_parameter(load, good_text):
    text = good_text.replace("d_sae: 8\n", "d_sae: 8\n  k: 3\n  lr: {log: [1e-4, 1]}\n")
    space = load(text=text.replace("relu:\n", "relu:\n    lr: 1\n"))
    assert space.ranges("relu") == {
        "d_sae": ConstantRange(value=8),
        "lr": ConstantRange(value=1.0),  # its own value
        "l1": LogRange(low=0.1, high=10.0),
    }
    assert space.ranges("topk") == {
        "d_sae": ConstantRange(value=8),
        "k": ChoiceRange(choices=(1, 2)),
        "lr": LogRange(low=1e-4, high=1.0),
    }


def test_ranges_of_a_space_that_was_not_loaded_include_the_shared_ones(load):
    space = load()
    made = space.model_copy(update={"shared": {"lr": ConstantRange(value=0.1)}})
    assert made.ranges("topk")["lr"] == ConstantRange(value=0.1)


def test_the_type_of_the_parameter_settles_the_type_of_the_range(load, good_text):
    text = good_text.replace("l1: {log: [0.1, 10]}", "l1: {log: [1, 10]}").replace("{choice: [1, 2]}", "{log: [1, 8]}")
    space = load(text=text)
    l1, k = space.ranges("relu")["l1"], space.ranges("topk")["k"]
    assert isinstance(l1, LogRange)
    assert isinstance(k, LogRange)
    assert (l1.integer, type(l1.low), k.integer, type(k.low)) == (False, float, True, int)


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("{uniform: [0, 1]}", UniformRange(low=0.0, high=1.0)),
        ("{int: [1, 5]}", IntRange(low=1, high=5)),
        ("{choice: [1, 2.5]}", ChoiceRange(choices=(1.0, 2.5))),
        ("1e-3", ConstantRange(value=0.001)),
        ("{log: [1e-3, 1e2]}", LogRange(low=0.001, high=100.0)),
    ],
)
def test_every_spelling_of_a_range(load, good_text, spelling, expected):
    assert load(text=good_text.replace("{log: [0.1, 10]}", spelling)).ranges("relu")["l1"] == expected


def test_yaml_is_version_1_2(load, good_text):
    texts = {"no": "no", "on": "on", "1:30": "1:30", "2026-01-01": "2026-01-01", "'1e-3'": "1e-3"}
    for written, read in texts.items():
        assert load(text=good_text + f"description: {written}\n").description == read
    numbers = {"012": 12, "0x10": 16, "0o17": 15, "1_000": 1000, "+3": 3}
    for written, number in numbers.items():
        assert load(text=good_text + f"seed: {written}\n").seed == number
    assert load(text=good_text + "training: {grad_clip: 1e-3}\n").training.grad_clip == 0.001


def test_aliases_are_copies(load, good_text):
    text = good_text.replace("d_sae: 8", "d_sae: &size {choice: [8, 9]}").replace(
        "l1: {log", "d_sae: *size\n    l1: {log"
    )
    space = load("shared.d_sae.choice.0=7", text=text)
    assert space.ranges("topk")["d_sae"] == ChoiceRange(choices=(7, 9))
    assert space.ranges("relu")["d_sae"] == ChoiceRange(choices=(8, 9))


def test_a_byte_order_mark_is_accepted(load, good_text):
    assert load(text="\ufeff" + good_text).name == "good"


def test_a_space_survives_json(load, good_text):
    key = "features: {count: 8, probability: 0.1}"
    features = "features: {count: 8, probability: {log: [0.1, 0.2]}, importance: {decay: 0.9}, copula: {phi: 0.1}}"
    space = load(text=good_text.replace(key, features))
    again = SearchSpace.model_validate_json(space.model_dump_json())
    assert again == space
    assert again.digest() == space.digest()


def test_the_digest_depends_on_the_meaning_only(load, good_text):
    digest = load().digest()
    assert len(digest) == 64
    assert load(text="# a comment\n" + good_text).digest() == digest
    assert load(text=good_text.replace("{log: [0.1, 10]}", "{log: [1e-1, 10.0]}")).digest() == digest
    assert load(text=good_text.replace("probability: 0.1", "probability: 0.2")).digest() != digest
    assert load("seed=1").digest() != digest


@pytest.mark.parametrize(
    "assignment",
    ["description=words", "search.trials=99", "resources.cpus_per_trial=3", "tracking.experiment=other"],
)
def test_the_digest_leaves_out_what_changes_no_result(load, assignment):
    assert load(assignment).digest() == load().digest()


def test_who_proposes_is_in_the_digest(load):
    assert load("search.sampler=random").digest() != load().digest()


# assignments


def test_assignments_replace_values_in_order(load):
    space = load(
        "seed=7",
        "search.trials=4",
        "search.trials=6",
        "subject.features.probability=1e-2",
        "architectures.topk.k={choice: [3, 4]}",
        "architectures.topk.k.choice.1=5",
        "description=a text with an = sign",
        "objectives.reference={l0: 8, delta_ce: 0.5}",
    )
    assert (space.seed, space.search.trials) == (7, 6)
    assert isinstance(space.subject, ToyModelSubject)
    assert space.subject.features.probability == 0.01
    assert space.ranges("topk")["k"] == ChoiceRange(choices=(3, 5))
    assert space.description.endswith("an = sign")
    assert space.objectives.reference is not None


def test_an_assignment_fills_an_architecture_without_ranges(load, good_text):
    text = good_text.replace("relu:\n    l1: {log: [0.1, 10]}", "relu:")
    assert load("architectures.relu.l1=2", text=text).ranges("relu")["l1"] == ConstantRange(value=2.0)


@pytest.mark.parametrize(
    ("assignment", "column", "words"),
    [
        ("seed", 1, "'seed' has no '='; write a.b=value"),
        ("=3", 1, "has an empty part"),
        ("search..trials=3", 8, "has an empty part"),
        ("sede=3", 1, "'sede' is an unknown key. Did you mean 'seed'?"),
        ("search.trails=3", 8, "search: 'trails' is an unknown key. Did you mean 'trials'?"),
        ("searrch.trials=3", 1, "'searrch' is an unknown key. Did you mean 'search'?"),
        ("search.trials=0", 15, "search.trials: must be at least 1, not 0"),
        ("search.trials=many", 15, "search.trials: must be a whole number, not 'many'"),
        ("search.trials=", 15, "must be a whole number, not nothing"),
        ("search.trials=[1", 17, "this is not valid YAML"),
        ("seed.x=3", 6, "is a single value and has no part"),
        ("architectures.topk.k.choice.2=3", 29, "is a list of 2 values, and '2' is no index of it"),
        ("architectures.topk.k.choice.a=3", 29, "'a' is no index"),
        ("architectures.tpk.k=3", 15, "'tpk' is not an architecture. Did you mean 'topk'?"),
        ("architectures.topk.q=3", 20, "'q' is not a hyper-parameter of topk"),
        ("name=../../x", 6, "name: becomes a directory"),
        ("seed=__import__('os').getpid()", 6, "must be a whole number, not \"__import__('os').getpid()\""),
        ("seed=!!python/object/apply:os.getpid []", 6, "the tag !!python/object/apply:os.getpid is not allowed"),
        ("objectives={reference: null, reference: null}", 30, "duplicate key 'reference' (first at line 2)"),
    ],
)
def test_a_bad_assignment_is_refused_at_its_place(load, assignment, column, words):
    (file, line, found_column, message), *rest = refusals(load, "seed=1", assignment)
    assert (file, line) == ("--set", 2)
    assert found_column == column
    assert words in message
    assert len(rest) <= 1


def test_problems_of_assignments_come_after_those_of_the_file(load, good_text):
    found = refusals(load, "search.trials=0", text=good_text + "seed: -1\n")
    assert [(file[-5:], line) for file, line, _, _ in found] == [(".yaml", 13), ("--set", 1)]


def test_an_assignment_can_mend_the_file(load, good_text):
    assert load("seed=1", text=good_text + "seed: -1\n").seed == 1
