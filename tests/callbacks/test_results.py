"""The file of results after fit, validate and test."""

from __future__ import annotations

import json

import pytest
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from callbacks.iou import IoUMetrics
from callbacks.results import ResultsWriter
from tests.callbacks.tiny import Clock, TinySegmenter, loader, trainer


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("callbacks.results.time", clock)
    return clock


def test_fit_writes_the_last_validation_and_where_the_best_checkpoint_is(tmp_path, monkeypatch, clock):
    monkeypatch.setenv("PL_GLOBAL_SEED", "42")
    best = ModelCheckpoint(tmp_path / "best", monitor="val/giou", mode="max")
    options = {"max_steps": 6, "enable_checkpointing": True, "val_check_interval": 2, "check_val_every_n_epoch": None}
    run = trainer(tmp_path, IoUMetrics(), ResultsWriter(), best, clock, **options)
    run.fit(TinySegmenter(), loader(range(8)), loader(range(9)))
    results = read(tmp_path / "results.json")
    logged = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
    for name in ("giou", "ciou", "heatmap_giou", "format_rate", "precision@0.5", "completion_length"):
        assert results[name] == logged[f"val/{name}"], name
    assert results["by_kind"] == {kind: logged[f"val/giou/{kind}"] for kind in ("color", "position")}
    assert not [name for name in results if name.startswith(("giou/", "val/", "train/"))]
    assert (results["n"], results["seed"], results["stage"]) == (9, 42, "fit")
    assert (results["global_step"], results["max_steps"]) == (6, 6)
    assert (results["monitor"], results["best_score"]) == ("val/giou", float(best.best_model_score))
    assert results["best_checkpoint"] == best.best_model_path
    assert results["fit_seconds"] == 6 * 0.5 + 3 * 5 * 10


def test_a_resumed_run_adds_to_the_seconds_of_its_checkpoint(tmp_path, clock):
    def seconds():
        return read(tmp_path / "results.json")["fit_seconds"]

    last = ModelCheckpoint(tmp_path, filename="last")
    trainer(tmp_path, ResultsWriter(), last, clock, max_steps=4, enable_checkpointing=True).fit(
        TinySegmenter(), loader(range(8))
    )
    assert seconds() == 2
    again = ResultsWriter()
    trainer(tmp_path, again, clock, max_steps=7).fit(
        TinySegmenter(), loader(range(8)), ckpt_path=tmp_path / "last.ckpt"
    )
    assert seconds() == 3.5
    trainer(tmp_path, again, clock, max_steps=1).fit(TinySegmenter(), loader(range(8)))
    assert seconds() == 0.5  # a fresh fit counts from zero


def test_validate_and_test_write_theirs(tmp_path, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    run = trainer(tmp_path, IoUMetrics(), ResultsWriter(path="tables/{stage}.json"))
    run.validate(TinySegmenter(), loader(range(4)), verbose=False)
    run.test(TinySegmenter(), loader(range(6)), verbose=False)
    validated, tested = read(tmp_path / "tables/validate.json"), read(tmp_path / "tables/test.json")
    assert (validated["stage"], validated["n"], tested["stage"], tested["n"]) == ("validate", 4, "test", 6)
    assert validated["seed"] is None
    assert "fit_seconds" not in tested
    assert tested["giou"] == float(run.callback_metrics["test/giou"])


def test_scores_of_the_sanity_check_are_no_results(tmp_path):
    options = {"max_steps": 1, "num_sanity_val_steps": 1, "val_check_interval": 50, "check_val_every_n_epoch": None}
    trainer(tmp_path, IoUMetrics(), ResultsWriter(), **options).fit(TinySegmenter(), loader(range(4)), loader(range(4)))
    assert "giou" not in read(tmp_path / "results.json")


def test_two_files_can_be_written_in_one_run(tmp_path):
    writers = [ResultsWriter(), ResultsWriter(path=str(tmp_path / "elsewhere" / "again.json"))]
    trainer(tmp_path, *writers, max_steps=1).fit(TinySegmenter(), loader(range(2)))
    assert read(tmp_path / "results.json").keys() == read(tmp_path / "elsewhere" / "again.json").keys()


def test_without_validation_and_checkpoint_the_time_is_still_written(tmp_path):
    trainer(tmp_path, ResultsWriter(), max_steps=1).fit(TinySegmenter(), loader(range(2)))
    results = read(tmp_path / "results.json")
    assert "giou" not in results
    assert results["best_checkpoint"] is results["best_score"] is results["monitor"] is None
    assert results["fit_seconds"] >= 0


def test_a_failed_run_and_a_dry_run_write_nothing(tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, *_, **__):
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        trainer(tmp_path, ResultsWriter(), Fails(), max_steps=2).fit(TinySegmenter(), loader(range(2)))
    trainer(tmp_path, IoUMetrics(), ResultsWriter(), fast_dev_run=True).fit(
        TinySegmenter(), loader(range(2)), loader(range(2))
    )
    assert not (tmp_path / "results.json").exists()
