"""Scores and intervals against loops over examples."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from coprs_lightning.evaluation.examples import ExampleRecord
from coprs_lightning.evaluation.scores import buckets, summarise


def record(number: int, *, image: str | None = None, **scores: int) -> ExampleRecord:
    """An example with made-up counts."""
    rng = random.Random(number)
    counts = {"intersection": rng.randrange(50), "target_pixels": 60, "predicted_pixels": rng.randrange(50, 90)}
    counts |= {"heatmap_intersection": rng.randrange(50), "heatmap_union": 100, **scores}
    union = counts["target_pixels"] + counts["predicted_pixels"] - counts["intersection"]
    counts["union"] = union
    heat = counts["heatmap_intersection"] / 100
    wanted = counts["target_pixels"] > 0
    means = {"boundary_iou": rng.random(), "heatmap_entropy": rng.random()}
    means |= {"heatmap_inside": rng.random() if wanted else None, "heatmap_pointing": float(wanted) or None}
    return ExampleRecord(
        key=f"{number:04d}/0",
        image=image or f"{number:04d}",
        kind=("color", "position", "")[number % 3],
        question="?",
        written_thought=None,
        completion="",
        thought="",
        answer="",
        well_formed=number % 4 > 0,
        truncated=number % 5 == 0,
        present=number % 7 > 0,
        num_tokens=1,
        completion_tokens=number,
        height=8,
        width=8,
        distractors=None if number % 2 else number % 8,
        scores={**counts, **means, "iou": counts["intersection"] / union if union else 1.0, "heatmap_iou": heat},
    )


RECORDS = [record(number) for number in range(40)]


def test_values_equal_the_loop() -> None:
    scores = {name: score.value for name, score in summarise(RECORDS, seed=0, resamples=10).items()}
    ious = [one.scores["intersection"] / one.scores["union"] for one in RECORDS]
    expected = {"giou": np.mean(ious), "completion_tokens": np.mean(range(40)), "truncated": 8 / 40}
    expected["ciou"] = sum(o.scores["intersection"] for o in RECORDS) / sum(o.scores["union"] for o in RECORDS)
    expected |= {f"precision@{t}": np.mean([iou >= t for iou in ious]) for t in (0.5, 0.6, 0.7, 0.8, 0.9)}
    expected["heatmap_giou"] = np.mean([one.scores["heatmap_iou"] for one in RECORDS])
    expected["heatmap_ciou"] = sum(one.scores["heatmap_intersection"] for one in RECORDS) / 4000
    for name in ("boundary_iou", "heatmap_inside", "heatmap_entropy", "heatmap_pointing"):
        expected[name] = np.mean([one.scores[name] for one in RECORDS])
    expected |= {"well_formed": 30 / 40, "present": np.mean([n % 7 > 0 for n in range(40)])}
    assert scores == pytest.approx(expected, abs=1e-12)
    assert summarise([], seed=0, resamples=10) == {}


def test_questions_without_a_target() -> None:
    nothing = {"target_pixels": 0, "intersection": 0}
    found = [record(1, predicted_pixels=0, **nothing), record(2, predicted_pixels=9, **nothing), record(3)]
    found.append(record(4, predicted_pixels=0, intersection=0))
    scores = summarise(found, seed=0, resamples=20)
    assert (scores["n_acc"].value, scores["n_acc"].n) == (0.5, 2)
    assert (scores["t_acc"].value, scores["t_acc"].n) == (0.5, 2)
    assert found[0].scores["iou"] == 1
    assert (scores["heatmap_inside"].n, scores["heatmap_entropy"].n) == (2, 4)  # nothing can be inside of no target
    assert "n_acc" not in summarise(RECORDS, seed=0, resamples=10)


def test_intervals_are_those_of_a_loop_over_resamples() -> None:
    scores = summarise(RECORDS, seed=3, resamples=50)
    rng = np.random.default_rng(3)
    drawn = []
    ordered = sorted(RECORDS, key=lambda one: (one.scores["union"], one.scores["intersection"]))
    for chosen in rng.integers(0, 40, (50, 40)):
        picked = [ordered[number] for number in chosen]
        drawn.append(sum(o.scores["intersection"] for o in picked) / sum(o.scores["union"] for o in picked))
    assert (scores["ciou"].low, scores["ciou"].high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))
    assert scores == summarise(RECORDS[::-1], seed=3, resamples=50)
    assert scores["giou"].low != summarise(RECORDS, seed=4, resamples=50)["giou"].low


def test_intervals_are_as_wide_as_theory_says() -> None:
    many = [record(number) for number in range(400)]
    giou = summarise(many, seed=0, resamples=2000)["giou"]
    spread = 1.96 * np.std([one.scores["iou"] for one in many]) / 20
    assert giou.low == pytest.approx(giou.value - spread, rel=0.02)
    assert giou.high == pytest.approx(giou.value + spread, rel=0.02)


def test_questions_about_one_image_stay_together() -> None:
    apart = [record(number % 100) for number in range(400)]
    together = [record(number % 100, image=str(number % 100)) for number in range(400)]
    for number, one in enumerate(apart):
        object.__setattr__(one, "image", str(number))
    wide, narrow = (summarise(found, seed=0, resamples=2000)["giou"] for found in (together, apart))
    # four copies of each example tell no more than one: the interval is twice as wide
    assert wide.value == narrow.value
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2, rel=0.1)


def test_one_image_has_no_interval() -> None:
    score = summarise([record(1, image="a"), record(2, image="a")], seed=0, resamples=10)["giou"]
    assert 0 < score.value < 1
    assert math.isnan(score.low)
    assert math.isnan(score.high)


def test_buckets_by_size_and_distractors() -> None:
    large = [record(number, target_pixels=40_000) for number in range(40, 45)]
    found = buckets([*large, *RECORDS], seed=0, resamples=10)
    assert {by: [*groups] for by, groups in found.items()} == {
        "kind": ["color", "position"],
        "target size": ["small", "large"],
        "distractors": ["0", "2", "4", "5_or_more"],
    }
    assert [group["n"] for group in found["target size"].values()] == [40, 5]
    assert found["distractors"]["5_or_more"]["n"] == 5
    assert buckets(large[:1], seed=0, resamples=10) == {}


def test_buckets_by_kind() -> None:
    found = buckets(RECORDS, seed=0, resamples=10)["kind"]
    assert list(found) == ["color", "position"]
    assert found["color"]["n"] == 14
    assert found["color"]["giou"].value == pytest.approx(np.mean([RECORDS[n].scores["iou"] for n in range(0, 40, 3)]))
