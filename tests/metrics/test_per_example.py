"""The record of one answer against loops, PyTorch's losses and the metrics over splits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coprs_lightning.losses.segmentation import dice as dice_loss
from coprs_lightning.metrics import Answer, answers, concentration, example_scores
from coprs_lightning.metrics.per_example import soft_scores
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.callbacks.tiny import FRAME, TinySegmenter, loader
from tests.metrics.random_examples import every_metric, random_answer


def oracle(answer):
    """Counts and soft scores, from NumPy in double precision."""
    counted = np.ones(answer.target.shape, bool) if answer.ignore is None else ~answer.ignore.numpy()
    target = answer.target.numpy()[counted]
    found = {"target_pixels": target.sum(), "counted_pixels": counted.sum(), "target_empty": not target.any()}
    for prefix, logits in (("", answer.mask_logits), ("heatmap_", answer.heatmap_logits)):
        x = logits.double().numpy()[counted]
        marked, p = x > 0, 1 / (1 + np.exp(-x))
        both, either = (marked & target).sum(), (marked | target).sum()
        found[f"{prefix}intersection"], found[f"{prefix}union"] = both, either
        found[f"{prefix}iou"] = both / either if either else 1.0
        found[f"{prefix}pixels" if prefix else "predicted_pixels"] = marked.sum()
        found[f"{prefix}empty" if prefix else "predicted_empty"] = not marked.any()
        found[f"{prefix}dice"] = (2 * p[target].sum() + 1e-6) / (p.sum() + target.sum() + 1e-6)
        found[f"{prefix}bce"] = np.logaddexp(0, np.where(target, -x, x)).mean()
    return found


def test_scores_equal_the_loop(record_property):
    differences = []
    for seed in range(42):
        answer = random_answer(seed)
        got, expected = example_scores(answer), oracle(answer)
        assert set(expected) <= set(got)
        for name, value in expected.items():
            if isinstance(value, int | np.integer | np.bool_ | bool):
                assert got[name] == value, name
            else:
                differences.append(abs(got[name] - float(value)))
        spread = concentration(answer.heatmap_logits, answer.target, answer.ignore)
        for name in spread._fields:
            value = getattr(spread, name)
            assert got[f"heatmap_{name}"] == (None if math.isnan(value) else value)
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-12


def test_soft_scores_equal_the_losses(record_property):
    differences = []
    for seed in range(1, 12):
        answer = random_answer(seed)
        logits, target = answer.mask_logits.double(), answer.target.double()
        valid = None if answer.ignore is None else ~answer.ignore[None, None]
        weight = torch.ones_like(target) if answer.ignore is None else (~answer.ignore).double()
        dice, bce = soft_scores(answer.mask_logits, answer.target, answer.ignore)
        differences.append(abs(dice - (1 - float(dice_loss(logits[None, None], target[None, None], valid)))))
        entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
        differences.append(abs(bce - float(entropy)))
    record_property("largest_difference", float(max(differences)))
    assert max(differences) < 1e-12


def test_means_of_records_are_the_scores_of_the_split():
    metrics = {name: metric for name, metric in every_metric().items() if name in ("iou", "boundary", "concentration")}
    rows = []
    for seed in range(30):
        answer = random_answer(seed)
        rows.append(example_scores(answer, tolerance=3))
        for metric in metrics.values():
            metric.take(answer)
    scores = {name: float(v) for metric in metrics.values() for name, v in metric.compute().items()}
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}

    def mean(name):
        return math.fsum(columns[name]) / len(columns[name])

    assert scores["giou"] == mean("iou")
    assert scores["ciou"] == sum(columns["intersection"]) / sum(columns["union"])
    assert scores["boundary_iou"] == mean("boundary_iou")
    for name in ("heatmap_inside", "heatmap_entropy", "heatmap_pointing"):
        assert scores[name] == mean(name)
    silent = [row["predicted_empty"] for row in rows if row["target_empty"]]
    assert scores["none_accuracy"] == sum(silent) / len(silent)


def test_records_are_plain_json():
    for seed in (0, 3, 10):  # no target, no heatmap, neither
        record = example_scores(random_answer(seed))
        assert json.loads(json.dumps(record, allow_nan=False)) == record
    full = torch.ones(3, 3, dtype=torch.bool)
    ignored = example_scores(Answer(torch.ones(3, 3), torch.ones(3, 3), full, ignore=full))
    assert ignored["counted_pixels"] == 0
    assert ignored["bce"] is None
    assert ignored["iou"] == 1


def test_saturated_logits_stay_finite():
    target = torch.tensor([[True, False]])
    worst = example_scores(Answer(torch.tensor([[-1e4, 1e4]]), torch.full((1, 2), NO_PRIOR_LOGIT), target))
    assert worst["bce"] == pytest.approx(1e4)
    assert worst["dice"] == pytest.approx(0, abs=1e-6)
    assert worst["heatmap_bce"] == pytest.approx(25)


def test_answers_come_at_the_size_of_their_image():
    module = TinySegmenter()
    for batch in loader(range(8), 4):
        with torch.no_grad():
            output = module.validation_step(batch, 0)
        found = list(answers(batch, output, FRAME))
        assert [answer.key for answer in found] == batch.keys
        assert [answer.question for answer in found] == batch.questions
        for row, answer in enumerate(found):
            assert answer.mask_logits.shape == answer.heatmap_logits.shape == batch.images[row].shape[-2:]
            assert answer.objects == int(batch.original_masks[row].any())
            assert answer.kind == batch.kinds[row]
            counted = torch.ones_like(answer.target) if answer.ignore is None else ~answer.ignore
            assert torch.equal(answer.counted_target, answer.target & counted)
