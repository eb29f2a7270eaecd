from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from search_helpers import MemoryBank, tiny_space, tiny_subject

from vsae_search import saes
from vsae_search.errors import EnvironmentNotReady
from vsae_search.evaluation import evaluate
from vsae_search.search import trial as trial_module
from vsae_search.search.assignment import Assignment
from vsae_search.search.curves import CURVE_FILE, read_curve
from vsae_search.search.trial import ARRAYS_FILE, CHECKPOINT_FOLDER, TrialContext, TrialRun


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return tiny_subject(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def context(subject, tmp_path) -> TrialContext:
    bank = MemoryBank(subject)
    return TrialContext(bank, subject, subject.baseline(bank.evaluation()), tiny_space().training, tmp_path)


def assignment(architecture="topk", **params) -> Assignment:
    defaults = {"d_sae": 16, "lr": 2e-3} | ({"k": 2} if architecture == "topk" else {})
    return Assignment(f"{architecture}-0005", architecture, 5, defaults | params, seed=9, attempt=0)


def curve(root):
    found = read_curve(root / "trials" / "topk-0005")
    assert found is not None
    return found.columns


def run(context, of=None):
    reports = []
    return TrialRun(of or assignment(), context, reports.append).run(), reports


def test_a_trial_reports_its_rungs_and_leaves_its_weights(context):
    record, reports = run(context)
    directory = context.directory / "trials" / "topk-0005"
    assert record.state == "completed"
    assert [rung.fraction for rung in record.rungs] == [0.5, 1.0]
    assert [rung.step for rung in record.rungs] == [8, 16]
    assert [report.state for report in reports] == ["stopped"]
    assert reports[0].rungs == record.rungs[:1]
    assert reports[0].metrics == record.rungs[0].metrics
    assert record.metrics == record.rungs[1].metrics
    assert 0 < record.train_s < record.wall_s
    assert 0 < record.evaluate_s < record.wall_s
    assert record.overhead_s == pytest.approx(record.wall_s - record.train_s)
    assert sorted(path.name for path in directory.iterdir()) == [
        ARRAYS_FILE,
        CURVE_FILE,
        "sae.json",
        "sae.safetensors",
    ]


def test_the_saved_weights_have_the_recorded_metrics(context):
    record, _ = run(context)
    directory = context.directory / "trials" / "topk-0005"
    evaluation = evaluate(
        saes.load(directory),
        context.bank.evaluation(),
        scale=context.bank.manifest.scale,
        subject=context.subject,
        baseline=context.baseline,
    )
    assert {key: record.metrics[key] for key in evaluation.metrics} == evaluation.metrics
    arrays = load_file(directory / ARRAYS_FILE)
    assert set(arrays) == set(evaluation.arrays)
    for key, array in evaluation.arrays.items():
        np.testing.assert_array_equal(arrays[key], array)


def test_training_numbers_are_told_apart_by_their_prefix(context):
    metrics = run(context)[0].metrics
    assert metrics["train_total"] > 0
    assert {"train_lr", "train_grad_norm", "train_dead_fraction", "dead_fraction", "l0", "delta_ce"} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_same_assignment_gives_the_same_record(context, tmp_path):
    first, _ = run(context)
    torch.manual_seed(123)  # whatever ran in this process before does not matter
    second, _ = run(replace(context, directory=tmp_path / "again"))
    assert first.metrics == second.metrics
    third, _ = run(replace(context, directory=tmp_path / "other"), replace(assignment(), seed=10))
    assert third.metrics != first.metrics


def test_divergence_is_a_state_and_not_an_exception(context):
    record, _ = run(context, assignment("relu", lr=1e30))
    assert record.state == "diverged"
    assert record.error
    assert record.metrics == {}
    assert not (context.directory / "trials" / "relu-0005" / CHECKPOINT_FOLDER).exists()


def test_a_combination_that_the_architecture_refuses_is_not_tried_again(context):
    record, _ = run(context, assignment(k=17))
    assert record.state == "diverged"
    assert record.error.startswith("refused: ")
    assert "k" in record.error
    assert not run(context, assignment("relu", lr=1e30))[0].error.startswith("refused: ")


def test_out_of_memory_is_not_tried_again(context, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trial_module, "fit", full)
    record, _ = run(context)
    assert record.state == "diverged"
    assert "out of memory" in record.error


def test_an_unexpected_exception_passes_through(context, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(trial_module, "fit", broken)
    trial = TrialRun(assignment(), context, lambda _: None)
    with pytest.raises(RuntimeError, match="disk is gone") as caught:
        trial.run()
    assert trial.failed(caught.value).state == "failed"
    assert "the disk is gone" in trial.failed(caught.value).error


class Killed(BaseException):
    """What a killed worker looks like from inside: nothing after it runs."""


def killed_after_first_rung(context):
    def report(_) -> None:
        raise Killed

    with pytest.raises(Killed):
        TrialRun(assignment(), context, report).run()


def test_a_repeated_trial_goes_on_from_its_checkpoint(context, tmp_path):
    expected, _ = run(replace(context, directory=tmp_path / "through"))
    killed_after_first_rung(context)
    assert (context.directory / "trials" / "topk-0005" / CHECKPOINT_FOLDER).exists()
    record, reports = run(context, replace(assignment(), attempt=1))
    assert record.metrics == expected.metrics
    assert record.rungs == expected.rungs
    assert len(reports) == 1
    assert record.attempt == 1
    assert curve(context.directory) == curve(tmp_path / "through"), "no point is doubled and none is lost"
    assert not (context.directory / "trials" / "topk-0005" / CHECKPOINT_FOLDER).exists()


def test_rungs_of_the_earlier_attempt_are_kept(context, tmp_path):
    context = replace(context, training=context.training.model_copy(update={"rungs": (0.25, 0.5, 1.0)}))
    expected, _ = run(replace(context, directory=tmp_path / "through"))
    seen = []

    def report(record) -> None:
        seen.append(record)
        if len(seen) == 2:
            raise Killed

    with pytest.raises(Killed):
        TrialRun(assignment(), context, report).run()
    record, _ = run(context)
    assert record.rungs == expected.rungs


def test_a_damaged_checkpoint_costs_the_progress_only(context, tmp_path):
    expected, _ = run(replace(context, directory=tmp_path / "through"))
    killed_after_first_rung(context)
    checkpoint = context.directory / "trials" / "topk-0005" / CHECKPOINT_FOLDER
    for file in checkpoint.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    record, _ = run(context)
    assert record.metrics == expected.metrics
    assert record.rungs == expected.rungs
    assert curve(context.directory) == curve(tmp_path / "through")


def test_a_stopped_trial_keeps_its_curve_up_to_the_rung(context):
    killed_after_first_rung(context)
    assert curve(context.directory)["step"][-1] <= 8


def test_calibration_rows_of_the_bank_are_not_written_to(context):
    before = context.bank.calibration().copy()
    run(context)
    np.testing.assert_array_equal(context.bank.calibration(), before)


def test_an_oracle_control_is_given_the_true_features(context):
    wanted = assignment("vsae_mix", sets_from="oracle", prior_l0=2.0)
    record, _ = run(context, wanted)
    assert record.state == "completed", record.error


def test_an_oracle_control_without_true_features_says_what_it_needs(context):
    class Unknown:
        truth = None

        def __getattr__(self, name):
            return getattr(context.subject, name)

    wanted = assignment("vsae_mix", sets_from="oracle", prior_l0=2.0)
    record, _ = run(replace(context, subject=Unknown()), wanted)
    assert record.state == "diverged"
    assert "asks for the true features" in record.error


def test_a_trial_refuses_a_folder_that_its_node_does_not_see(context, tmp_path):
    """It would train, and leave its weights where nobody finds them; the attempt is lost instead, and repeated."""
    with pytest.raises(EnvironmentNotReady, match="does not see"):
        run(replace(context, directory=tmp_path / "unmounted" / "sweep"))
    assert list(tmp_path.iterdir()) == []
