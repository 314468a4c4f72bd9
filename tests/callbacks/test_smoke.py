"""When a run is looked at, that it is warned of once, and that nothing is warned of without cause."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from callbacks.smoke import SmokeCheck
from coprs_lightning.cli import main
from tests.callbacks.smoking import batches, module, said, validated
from tests.callbacks.tiny import TinySegmenter, loader, trainer


def blank(batch) -> None:
    batch.images = [torch.zeros_like(image) for image in batch.images]
    batch.frames = torch.zeros_like(batch.frames)


def looks(folder: Path) -> list[dict]:
    return json.loads((folder / "smoke.json").read_text())["looks"]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_module_that_works_is_left_in_peace(tmp_path: Path, stage: str) -> None:
    made = module()
    made._evaluate = lambda batch, mode: type(made)._evaluate(made, batch, "teacher_forced")
    given = {} if stage == "predict" else {"verbose": False}
    assert said(tmp_path, lambda run: getattr(run, stage)(made, batches(), **given)) == []
    (look,) = looks(tmp_path)
    assert (look["where"], look["findings"]) == ("first batches", [])
    signs = look["signs"]
    assert (signs["examples"], signs["with_token"], signs["well_formed"]) == (8, 8, 8)
    assert signs["empty_masks"] < 8
    assert signs["full_masks"] < 8
    assert 0.1 < signs["pixel_std"] < 2


def test_a_fresh_module_is_not_blamed_for_what_it_has_not_learnt(tmp_path: Path) -> None:
    """Empty masks, random norms and texts without form are as they should be before training."""
    fresh = module(trained=False)
    fresh.validation = "generate"
    torch.nn.init.constant_(fresh.model.decoder.head.bias, -100.0)
    run = {"max_steps": 3, "num_sanity_val_steps": 2}
    assert said(tmp_path, lambda made: made.fit(fresh, batches(3), batches()), **run) == []
    (look,) = looks(tmp_path)
    assert look["where"] == "sanity check"
    assert look["signs"]["with_token"] == 0


def test_without_a_sanity_check_the_first_training_batches_are_looked_at(tmp_path: Path) -> None:
    made = module()
    warned = said(tmp_path, lambda run: run.fit(made, batches(4, blank), batches()), max_steps=4, val_check_interval=1)
    (message,) = warned
    assert message.startswith("smoke check of the first training batches (8 examples, step 2): all 8 images are of one")
    assert "Cause that fits: blank images." in message
    (look,) = looks(tmp_path)
    assert look["signs"]["examples"] == 8  # those of the validation between them are not counted
    assert not made.model._forward_hooks
    assert not made.model.backbone._forward_hooks


def test_a_short_epoch_is_judged_at_its_end(tmp_path: Path) -> None:
    (message,) = said(tmp_path, lambda run: run.fit(module(), batches(1, blank)), examples=50, max_epochs=1)
    assert "first training batches (4 examples" in message


def test_a_short_split_is_judged_at_its_end(tmp_path: Path) -> None:
    (message,) = validated(tmp_path, module(), batches(1, blank), examples=50)
    assert "first batches (4 examples" in message


def test_one_warning_however_many_signs_there_are(tmp_path: Path) -> None:
    def spoil(batch) -> None:
        blank(batch)
        batch.original_masks = [torch.zeros_like(mask) for mask in batch.original_masks]

    (message,) = validated(tmp_path, module(trained=False), batches(2, spoil))
    assert message.count("Cause that fits") == 1
    assert "Cause that fits: no targets." in message
    assert "Also seen: all 8 images are of one colour; model.policy" in message
    assert message.endswith("The run goes on.")


def test_after_some_training_masks_are_expected(tmp_path: Path) -> None:
    made = module()
    torch.nn.init.constant_(made.model.decoder.head.bias, -100.0)
    run = {"max_steps": 4, "val_check_interval": 2, "num_sanity_val_steps": 1, "trained_after": 3}
    (message,) = said(tmp_path, lambda one: one.fit(made, batches(4), batches()), **run)
    assert "smoke check of the first batches (8 examples, step 4): all 8 masks are empty" in message
    assert [look["step"] for look in looks(tmp_path)] == [0, 4]


def test_weights_that_training_starts_from_are_expected_to_work(tmp_path: Path) -> None:
    made = module()
    made.init_from = "runs/before/last.ckpt"
    torch.nn.init.constant_(made.model.decoder.head.bias, -100.0)
    (message,) = said(tmp_path, lambda run: run.fit(made, batches(), batches()), max_steps=1, num_sanity_val_steps=2)
    assert "sanity check (8 examples, step 0): all 8 masks are empty" in message


def test_modules_of_other_makes_are_looked_at_too(tmp_path: Path) -> None:
    (message,) = validated(tmp_path, TinySegmenter(), loader(range(4)))
    assert "all 4 masks are empty" in message  # it starts so
    (look,) = looks(tmp_path)
    assert look["signs"]["examples"] == 4


def test_a_trial_run_leaves_no_file(tmp_path: Path) -> None:
    (message,) = said(tmp_path, lambda run: run.fit(module(), batches(2, blank)), examples=4, fast_dev_run=1)
    assert "blank images" in message
    assert not (tmp_path / "smoke.json").exists()


def test_no_hook_stays_behind_an_error(tmp_path: Path) -> None:
    made = module()

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    made.on_train_batch_end = fail
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer(tmp_path, SmokeCheck(examples=50), max_steps=2).fit(made, batches())
    assert not made.model._forward_hooks


def test_every_run_has_one_and_it_can_be_switched_off(tiny: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(tiny)])
    assert list((tmp_path / "run").glob("logs/version_0/smoke.json"))
    main(["fit", "--config", str(tiny), "--callbacks.smoke", "null"])
    assert list((tmp_path / "run").glob("logs/version_1/metrics.csv"))
    assert not list((tmp_path / "run").glob("logs/version_1/smoke.json"))


@pytest.mark.parametrize("name", ["examples", "trained_after"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"SmokeCheck\.{name} must be ≥ 1, got 0"):
        SmokeCheck(**{name: 0})
