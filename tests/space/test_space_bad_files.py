"""Files that are refused: each with the place and the words of every problem, and nothing created on disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from vsae_search.errors import SearchSpaceError
from vsae_search.space import load_space
from vsae_search.space.load import excerpt

HEAD = "name: bad\n"
SUBJECT = "subject: {type: toy_model, d_hidden: 4, features: {count: 8, probability: 0.1}}\n"
ARCHITECTURES = "shared: {d_sae: 8}\narchitectures: {relu: }\n"


@dataclass(frozen=True)
class Bad:
    """A refused file and its problems as (line, column, part of the message)."""

    id: str
    text: str
    problems: tuple[tuple[int, int, str], ...]


def features(text: str) -> str:
    """A file with these features on line 3; they begin in column 13."""
    return f"name: bad\nsubject: {{type: toy_model, d_hidden: 4, features:\n  # here\n  {text}}}\n{ARCHITECTURES}"


def ranges(text: str) -> str:
    """A file with these hyper-parameters of topk on line 4."""
    return f"{HEAD}{SUBJECT}shared: {{d_sae: 8}}\narchitectures: {{topk: {{{text}}}}}\n"


def rest(text: str) -> str:
    """A file with these sections from line 5 on."""
    return HEAD + SUBJECT + ARCHITECTURES + text


CASES = [
    # the file as a whole
    Bad("empty", "", ((1, 1, "the file is empty; a search space is a mapping with the keys name"),)),
    Bad("only-comments", "# nothing\n", ((1, 1, "the file is empty"),)),
    Bad("list-at-the-top", "- a\n- b\n", ((1, 1, "a mapping with the keys name, description"),)),
    Bad("value-at-the-top", "\n hello\n", ((2, 2, "not a single value"),)),
    Bad("two-documents", rest("---\nname: x\n"), ((5, 1, "a second document starts here"),)),
    Bad("tab", "name: x\n\tseed: 1\n", ((2, 1, "this is not valid YAML"),)),
    Bad("unclosed", "name: [a,\n", ((2, 1, "this is not valid YAML"),)),
    Bad("colon-in-text", "name: x\ndescription: a: b\n", ((2, 15, "put it in quotes"),)),
    Bad("control-character", "name: \x07\n", ((1, 7, "the character #x0007 is not allowed"),)),
    Bad("surrogate", rest('description: "\\ud800"\n'), ((5, 14, "half of a surrogate pair"),)),
    Bad("escape", 'name: "\\U99999999"\n', ((1, 1, "this is not valid YAML"),)),
    Bad("recursive-alias", rest("search: &a {trials: *a}\n"), ((5, 21, "*a refers to no value that ends before"),)),
    # security
    Bad(
        "python-tag",
        rest("description: !!python/object/apply:os.system [touch pwned]\n"),
        ((5, 14, "the tag !!python/object/apply:os.system is not allowed"),),
    ),
    Bad("own-tag", rest("seed: !seed 3\n"), ((5, 7, "the tag !seed is not allowed"),)),
    Bad("binary-tag", rest("description: !!binary aGk=\n"), ((5, 14, "the tag !!binary is not allowed"),)),
    Bad("name-leaves", SUBJECT + ARCHITECTURES + "name: ../x\n", ((4, 7, "name: becomes a directory"),)),
    Bad("name-absolute", SUBJECT + ARCHITECTURES + "name: /tmp/x\n", ((4, 7, "name: becomes a directory"),)),
    Bad("name-nul", SUBJECT + ARCHITECTURES + 'name: "a\\0b"\n', ((4, 7, "name: becomes a directory"),)),
    Bad("name-newline", SUBJECT + ARCHITECTURES + 'name: "a\\n"\n', ((4, 7, "name: becomes a directory"),)),
    Bad("name-long", SUBJECT + ARCHITECTURES + f"name: {'x' * 300}\n", ((4, 7, "1 to 80 characters"),)),
    Bad("name-number", SUBJECT + ARCHITECTURES + "name: 12\n", ((4, 7, "must be a text; put it in quotes, not 12"),)),
    Bad(
        "uri-scheme", rest("tracking: {uri: 'gopher://x'}\n"), ((5, 17, "'gopher' is not among the possible schemes"),)
    ),
    Bad("uri-file", rest("tracking: {uri: 'file:///tmp/x'}\n"), ((5, 17, "a folder cannot be the tracking store"),)),
    Bad("uri-path", rest("tracking: {uri: mlruns}\n"), ((5, 17, "a folder cannot be the tracking store"),)),
    Bad("uri-password", rest("tracking: {uri: 'postgresql://me:secret@db/x'}\n"), ((5, 17, "a password in the file"),)),
    # keys
    Bad("duplicate", rest("seed: 1\nseed: 2\n"), ((6, 1, "duplicate key 'seed' (first at line 5)"),)),
    Bad("number-key", rest("3: x\n"), ((5, 1, "a key is a text; put it in quotes"),)),
    Bad("merge-key", rest("search: {<<: {trials: 3}}\n"), ((5, 10, "merge keys"),)),
    Bad("unknown-key", rest("trainiing: {}\n"), ((5, 1, "'trainiing' is an unknown key. Did you mean 'training'?"),)),
    Bad(
        "unknown-key-deep",
        rest("training:\n  batch_sise: 3\n"),
        ((6, 3, "training: 'batch_sise' is an unknown key. Did you mean 'batch_size'?"),),
    ),
    Bad("unknown-key-far", rest("zzz: 3\n"), ((5, 1, "'zzz' is an unknown key. Known: name, description, seed"),)),
    Bad("misspelled-required", "nme: x\n" + SUBJECT + ARCHITECTURES, ((1, 1, "Did you mean 'name'?"),)),
    Bad("missing", HEAD + ARCHITECTURES, ((1, 1, "the key 'subject' is missing"),)),
    Bad(
        "missing-deep",
        HEAD + "subject:\n  type: toy_model\n  features: {count: 3}\n  d_hidden: 2\n" + ARCHITECTURES,
        ((4, 3, "subject.features: the key 'probability' is missing"),),
    ),
    Bad("subject-without-type", HEAD + "subject: {d_in: 3}\n" + ARCHITECTURES, ((2, 10, "the key 'type' is missing"),)),
    Bad(
        "subject-type",
        HEAD + "subject: {type: toy_modell}\n" + ARCHITECTURES,
        ((2, 17, "subject.type: 'toy_modell' is not a type. Did you mean 'toy_model'?"),),
    ),
    # values
    Bad("text-for-number", rest("seed: '1'\n"), ((5, 7, "seed: must be a whole number, not '1'"),)),
    Bad("true-for-number", rest("seed: true\n"), ((5, 7, "seed: must be a whole number, not true"),)),
    Bad("fraction-for-whole", rest("seed: 1.5\n"), ((5, 7, "seed: must be a whole number, not 1.5"),)),
    Bad("no-is-a-text", rest("tracking: {save_weights: no}\n"), ((5, 26, "must be true or false, not 'no'"),)),
    Bad("scalar-for-section", rest("training: 3\n"), ((5, 11, "training: must be a section with keys, not 3"),)),
    Bad("null-section", rest("training:\n"), ((5, 1, "training: must be a section with keys, not nothing"),)),
    Bad("too-small", rest("search: {trials: 0}\n"), ((5, 18, "search.trials: must be at least 1, not 0"),)),
    Bad("nan", rest("training: {grad_clip: .nan}\n"), ((5, 23, ".nan cannot be used"),)),
    Bad("inf", rest("training: {grad_clip: -.inf}\n"), ((5, 23, "-.inf cannot be used"),)),
    Bad("overflow", rest("training: {grad_clip: 1e999}\n"), ((5, 23, "1e999 is too large"),)),
    Bad("digits", rest(f"seed: {'9' * 5000}\n"), ((5, 7, "more than 100 characters"),)),
    Bad("sampler", rest("search: {sampler: tpee}\n"), ((5, 19, "'tpee' is not possible here. Did you mean 'tpe'?"),)),
    Bad(
        "l0-range-order",
        rest("objectives: {l0_range: [8, 2]}\n"),
        ((5, 28, "objectives.l0_range.1: the range of L0 rises from its first value to its second, not from 8 to 2"),),
    ),
    Bad("l0-range-zero", rest("objectives: {l0_range: [0, 2]}\n"), ((5, 25, "must be greater than 0, not 0"),)),
    Bad("l0-range-one", rest("objectives: {l0_range: [2]}\n"), ((5, 14, "objectives.l0_range: has too few values"),)),
    Bad(
        "l0-range-reference",
        rest("objectives: {l0_range: [2, 8], reference: {l0: 4, delta_ce: 1}}\n"),
        ((5, 28, "the range of L0 ends at 8, and nothing above reference.l0, 4, counts"),),
    ),
    Bad("allocation", rest("search: {allocation: jointly}\n"), ((5, 22, "Did you mean 'joint'?"),)),
    Bad("rungs-order", rest("training: {rungs: [0.5, 0.5, 1]}\n"), ((5, 25, "rungs increase, and 0.5 follows 0.5"),)),
    Bad("rungs-end", rest("training: {rungs: [0.5]}\n"), ((5, 20, "the last rung is 1.0"),)),
    Bad("no-rungs", rest("training: {rungs: []}\n"), ((5, 19, "the list is empty; the last rung is 1.0"),)),
    Bad("no-step", rest("training: {num_tokens: 10}\n"), ((5, 24, "num_tokens (10) is less than batch_size (1024)"),)),
    Bad(
        "big-batch", rest("activations: {num_tokens: 99}\n"), ((5, 27, "(99) is less than training.batch_size (1024)"),)
    ),
    # ranges
    Bad("reversed", ranges("lr: {log: [1, 0.1]}"), ((4, 28, "the range is reversed: 1 is greater than 0.1"),)),
    Bad("log-zero", ranges("lr: {log: [0, 0.1]}"), ((4, 35, "must be greater than 0, not 0; a logarithmic range"),)),
    Bad("log-negative", ranges("lr: {log: [-1, 1]}"), ((4, 35, "must be greater than 0, not -1"),)),
    Bad("empty-range", ranges("lr: {uniform: [1, 1]}"), ((4, 28, "the range is empty: both ends are 1"),)),
    Bad("empty-choice", ranges("k: {choice: []}"), ((4, 27, "'choice' is empty; list at least one value"),)),
    Bad("choice-twice", ranges("k: {choice: [1, 2, 1]}"), ((4, 43, "1 is listed twice"),)),
    Bad("one-end", ranges("k: {int: [1]}"), ((4, 27, "'int' needs exactly two values"),)),
    Bad("three-ends", ranges("k: {int: [1, 2, 3]}"), ((4, 27, "and has 3"),)),
    Bad("no-list", ranges("k: {int: 3}"), ((4, 27, "'int' needs a list: {int: [low, high]}"),)),
    Bad("bare-list", ranges("k: [1, 2]"), ((4, 27, "a bare list is not a range; write {choice: [...]}"),)),
    Bad("spelling", ranges("k: {choicce: [1]}"), ((4, 27, "Did you mean 'choice'?"),)),
    Bad("two-spellings", ranges("k: {int: [1, 2], log: [1, 2]}"), ((4, 27, "a range is {log: [a, b]}"),)),
    Bad("text-end", ranges("lr: {uniform: [a, 1]}"), ((4, 39, "must be a number, not 'a'"),)),
    Bad("nested-choice", ranges("k: {choice: [[1]]}"), ((4, 37, "must be a single value"),)),
    Bad("range-nan", ranges("lr: {log: [.nan, 1]}"), ((4, 35, ".nan cannot be used"),)),
    # ranges against the architectures
    Bad(
        "architecture",
        HEAD + SUBJECT + "shared: {d_sae: 8}\narchitectures:\n  topkk:\n",
        ((5, 3, "'topkk' is not an architecture. Did you mean 'topk'?"),),
    ),
    Bad("no-architecture", HEAD + SUBJECT + "architectures: {}\n", ((3, 16, "no architecture is named"),)),
    Bad("null-architectures", HEAD + SUBJECT + "architectures:\n", ((3, 1, "must be a section with keys"),)),
    Bad("parameter", ranges("kk: 3"), ((4, 24, "'kk' is not a hyper-parameter of topk. Did you mean 'k'?"),)),
    Bad("d-in", ranges("d_in: 4"), ((4, 24, "d_in is the width of the subject's activations"),)),
    Bad("int-as-real", ranges("k: {uniform: [1, 4]}"), ((4, 27, "k is a whole number; write {int: [low, high]}"),)),
    Bad("int-as-fraction", ranges("k: {log: [1.5, 4]}"), ((4, 34, "must be a whole number, not 1.5"),)),
    Bad("lower-bound", ranges("k: {int: [0, 4]}"), ((4, 34, "must be greater than 0, not 0"),)),
    Bad("every-choice", ranges("k: {choice: [0, 1, -1]}"), ((4, 37, "not 0"), (4, 43, "not -1"))),
    Bad("null-value", ranges("k: "), ((4, 24, "must be a whole number, not nothing"),)),
    Bad(
        "upper-bound",
        HEAD + SUBJECT + "shared: {d_sae: 8}\narchitectures: {relu: {l1: {uniform: [1, 101]}}}\n",
        ((4, 42, "architectures.relu.l1.uniform.1: must be at most 100, not 101"),),
    ),
    Bad(
        "literal",
        HEAD + SUBJECT + "shared: {d_sae: 8}\narchitectures: {relu: {norm: {choice: [unit, fre]}}}\n",
        ((4, 46, "'fre' is not possible here. Did you mean 'free'?"),),
    ),
    Bad(
        "bool",
        HEAD + SUBJECT + "shared: {d_sae: 8}\narchitectures: {relu: {resample: 1}}\n",
        ((4, 34, "must be true or false, not 1"),),
    ),
    Bad(
        "shared-unknown",
        HEAD + SUBJECT + "shared: {d_sae: 8, lrr: 3}\narchitectures: {relu: }\n",
        ((3, 20, "'lrr' is a hyper-parameter of none of the architectures. Did you mean 'lr'?"),),
    ),
    Bad(
        "shared-bound",
        HEAD + SUBJECT + "shared: {d_sae: {int: [0, 8]}}\narchitectures: {relu: , topk: }\n",
        ((3, 24, "shared.d_sae.int.0: must be greater than 0, not 0"),),
    ),
    Bad(
        "no-default",
        HEAD + SUBJECT + "architectures: {relu: }\n",
        ((3, 17, "the hyper-parameter 'd_sae' has no default and needs a range"),),
    ),
    Bad(
        "combination",
        HEAD + SUBJECT + "shared: {d_sae: {choice: [64, 8]}}\narchitectures: {topk: {k: {int: [4, 16]}}}\n",
        ((4, 17, "not every combination is possible: k = 16 is more than d_sae = 8 (with d_sae = 8, k = 16)"),),
    ),
    Bad("few-trials", rest("search: {trials: 1}\n").replace("relu: ", "relu: , topk: "), ((5, 18, "too few for 2"),)),
    # features
    Bad("probability", features("{count: 3, probability: 0}"), ((4, 27, "must be greater than 0, not 0"),)),
    Bad("probability-high", features("{count: 3, probability: 1.5}"), ((4, 27, "must be at most 1, not 1.5"),)),
    Bad("probability-text", features("{count: 3, probability: a}"), ((4, 27, "must be one number, a list"),)),
    Bad("probability-list", features("{count: 3, probability: [0.1, 2, 0.1]}"), ((4, 33, "must be at most 1, not 2"),)),
    Bad("probability-length", features("{count: 3, probability: [0.1]}"), ((4, 27, "1 entries, and there are 3"),)),
    Bad("probability-log", features("{count: 3, probability: {log: [0, 1]}}"), ((4, 34, "must be greater than 0"),)),
    Bad("probability-short", features("{count: 3, probability: {log: [1]}}"), ((4, 28, "log: has too few values"),)),
    Bad("probability-long", features("{count: 3, probability: {log: [1, 1, 1]}}"), ((4, 33, "more than 2 values"),)),
    Bad("probability-key", features("{count: 3, probability: {lg: [1, 1]}}"), ((4, 28, "Did you mean 'log'?"),)),
    Bad("importance", features("{count: 3, probability: 1, importance: [0, 0, 0]}"), ((4, 42, "importance above 0"),)),
    Bad("decay", features("{count: 3, probability: 1, importance: {decay: 2}}"), ((4, 50, "must be at most 1"),)),
    Bad(
        "sets-do-not-fit",
        features("{count: 5, probability: 0.1, sets: [{kind: correlated, size: 2}, {kind: correlated, size: 4}]}"),
        ((4, 68, "the sets up to this one need 6 features, and there are 5"),),
    ),
    Bad(
        "anticorrelated-too-frequent",
        features("{count: 8, probability: 0.4, sets: [{kind: anticorrelated, size: 4}]}"),
        ((4, 39, "size x probability is at most 1 (probability at most 0.25)"),),
    ),
    Bad(
        "set-size",
        features("{count: 8, probability: 0.1, sets: [{kind: correlated, size: 1}]}"),
        ((4, 64, "at least 2"),),
    ),
    Bad(
        "set-kind",
        features("{count: 8, probability: 0.1, sets: [{kind: corrrelated, size: 2}]}"),
        ((4, 46, "Did you mean 'correlated'?"),),
    ),
    Bad(
        "children",
        features("{count: 8, probability: 0.1, sets: [{kind: correlated, size: 2, child_probability: 0.1}]}"),
        ((4, 86, "only hierarchical sets have children"),),
    ),
    Bad("copula-both", features("{count: 8, probability: 0.1, copula: {rho: 1, phi: 1}}"), ((4, 40, "exactly one"),)),
    Bad("copula-none", features("{count: 8, probability: 0.1, copula: {}}"), ((4, 40, "exactly one of rho and phi"),)),
    Bad("copula-range", features("{count: 8, probability: 0.1, copula: {rho: 1.1}}"), ((4, 46, "between -1 and 1"),)),
    Bad(
        "copula-phi",
        features("{count: 2, probability: 0.05, copula: {phi: -0.06}}"),
        ((4, 47, "the lower bound is -p/(1-p) = -0.05263"),),
    ),
    Bad(
        "copula-square",
        features("{count: 2, probability: 0.1, copula: {rho: [[1, 0.5], [0.5]]}}"),
        ((4, 57, "the matrix is not square"),),
    ),
    Bad(
        "copula-symmetric",
        features("{count: 2, probability: 0.1, copula: {rho: [[1, 0.5], [0.4, 1]]}}"),
        ((4, 58, "not symmetric: row 2, column 1 is 0.4, its mirror is 0.5"),),
    ),
    Bad(
        "copula-diagonal",
        features("{count: 2, probability: 0.1, copula: {rho: [[1, 0.5], [0.5, 2]]}}"),
        ((4, 63, "the diagonal of a correlation matrix is 1, not 2"),),
    ),
    Bad(
        "copula-size",
        features("{count: 3, probability: 0.1, copula: {rho: [[1, 0.5], [0.5, 1]]}}"),
        ((4, 46, "the matrix is 2 x 2, and 3 features are outside the sets"),),
    ),
    Bad(
        "copula-block",
        features("{count: 3, probability: 0.1, copula: {rho: 0.1, block_size: 4}}"),
        ((4, 63, "larger"),),
    ),
    Bad(
        "copula-equal-rho",
        features("{count: 3, probability: 0.1, copula: {rho: -0.6}}"),
        ((4, 46, "the bound is -1 / (size - 1) = -0.5"),),
    ),
    Bad(
        "orthogonal",
        HEAD
        + "subject: {type: directions, d_in: 4, directions: orthogonal, features: {count: 8, probability: 0.1}}\n"
        + ARCHITECTURES,
        ((2, 50, "8 directions cannot be mutually orthogonal in 4 dimensions"),),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_file_is_refused_at_the_right_place(case, tmp_path, catalog):
    path = tmp_path / "bad.yaml"
    path.write_text(case.text, encoding="utf-8")
    with pytest.raises(SearchSpaceError) as caught:
        load_space(path, catalog)
    found = caught.value.problems
    assert [(p.line, p.column) for p in found] == [(line, column) for line, column, _ in case.problems], str(
        caught.value
    )
    for problem, (_, _, words) in zip(found, case.problems, strict=True):
        assert words in problem.message
        assert not re.search(r"Input should|valid dictionary|pydantic|\[type=", problem.message)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.yaml"]  # nothing is created by a refused file


def test_every_problem_is_reported_at_once_and_in_file_order(tmp_path, catalog):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: Bad Name\n"
        "seed: 1\n"
        "seed: -2\n"
        "subject:\n"
        "  type: toy_model\n"
        "  features:\n"
        "    count: 8\n"
        "    probability: 0.4\n"
        "    colour: red\n"  # an unknown key does not hide the impossible sets below
        "    sets: [{kind: anticorrelated, size: 4}]\n"
        "  d_hidden: 0\n"
        "shared: {lr: {log: [1, 0.1]}}\n"
        "architectures:\n"
        "  topk: {k: 0}\n"
        "  gated:\n"
        "search: {trials: x}\n",
        encoding="utf-8",
    )
    with pytest.raises(SearchSpaceError) as caught:
        load_space(path, catalog)
    lines = [problem.line for problem in caught.value.problems]
    assert lines == [1, 3, 9, 10, 11, 12, 14, 15, 16]
    assert caught.value.hint == "9 problems; nothing was started."
    assert caught.value.exit_code == 2
    assert str(caught.value.problems[0]).startswith(f"{path}:1:7: name: becomes a directory")


def test_a_caret_points_at_the_column(tmp_path, catalog):
    text = rest("search: {trials: 0}\n")
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SearchSpaceError) as caught:
        load_space(path, catalog)
    assert excerpt(text, caught.value.problems[0]) == "search: {trials: 0}\n                 ^"


@pytest.mark.parametrize(
    ("content", "line", "column", "words"),
    [(b"name: a\nseed: \xff\n", 2, 7, "the byte 0xff is not UTF-8"), ("ä: \xff".encode("latin-1"), 1, 1, "0xe4")],
)
def test_bytes_that_are_not_utf8_are_refused_at_their_place(content, line, column, words, tmp_path, catalog):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(SearchSpaceError) as caught:
        load_space(path, catalog)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (line, column)
    assert words in problem.message


def test_a_missing_file_a_directory_and_an_impossible_path_are_refused(tmp_path, catalog):
    for path, words in [
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path, "this is a directory, not a file"),
        (tmp_path / "a\0b", "the file cannot be read"),
        (tmp_path / "none.yaml" / "x", "there is no such file"),
    ]:
        with pytest.raises(SearchSpaceError, match=words) as caught:
            load_space(path, catalog)
        assert str(caught.value).count(f"{path}:1:1: ") == 1  # told once, not once more inside itself


@pytest.mark.parametrize(
    ("overrides", "assignments"),
    [
        (["seed=1", "training.batch_size=x"], ["training.batch_size=x"]),
        (["seed"], ["seed"]),
        (["search.trials=[1,\n*x]"], [""]),  # its second line is not a second assignment
    ],
)
def test_a_problem_of_an_assignment_carries_its_text(tmp_path, catalog, overrides, assignments):
    path = tmp_path / "good.yaml"
    path.write_text(rest(""), encoding="utf-8")
    with pytest.raises(SearchSpaceError) as caught:
        load_space(path, catalog, overrides=overrides)
    assert [problem.assignment for problem in caught.value.problems] == assignments
