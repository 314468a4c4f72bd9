"""Samples of bounded size that depend on the points alone."""

from __future__ import annotations

import random

import torch

from callbacks.correlation_points import KeyedSample, Point, StridedPoints


def many(count: int) -> list[Point]:
    return [Point(f"example {n}", n / count, 1 - n / count, "kind") for n in range(count)]


def filled(points: list[Point], most: int) -> KeyedSample:
    sample = KeyedSample(most)
    sample.merge(points)
    return sample


def test_all_are_kept_while_there_is_room() -> None:
    assert filled(many(10), 10).points() == sorted(many(10), key=lambda point: point.key)


def test_the_sample_depends_on_neither_order_nor_processes_nor_repeats() -> None:
    points = many(500)
    alone = filled(points, 40).points()
    assert len(alone) == 40
    shuffled = [*points, *points[:100]]
    random.Random(0).shuffle(shuffled)
    assert filled(shuffled, 40).points() == alone
    shares = [filled(points[rank::3], 40) for rank in range(3)]
    merged = KeyedSample(40)
    for share in shares:
        merged.merge(share.points())
    assert merged.points() == alone


def test_the_sample_is_spread_over_the_points() -> None:
    kept = [point.x for point in filled(many(5000), 500).points()]
    assert 0.45 < sum(kept) / 500 < 0.55


def test_a_long_sequence_is_thinned_evenly_and_memory_is_bounded() -> None:
    kept = StridedPoints(8)
    for step in range(1000):
        if kept.wants():
            kept.add(step, torch.tensor([step * 2.0, 1.0]))
        else:
            kept.skip()
        assert len(kept) <= 8
    table = kept.table()
    assert kept.seen == 1000
    assert kept.stride == 128
    assert table[:, 0].tolist() == list(range(0, 1000, 128))
    assert table[:, 1].tolist() == [2.0 * step for step in range(0, 1000, 128)]


def test_a_restored_sequence_goes_on_as_if_it_had_never_stopped() -> None:
    whole, first, second = StridedPoints(6), StridedPoints(6), StridedPoints(6)

    def feed(points: StridedPoints, steps: range) -> None:
        for step in steps:
            if points.wants():
                points.add(step, torch.tensor([float(step)]))
            else:
                points.skip()

    feed(whole, range(50))
    feed(first, range(23))
    second.restore(first.table(), first.stride, first.seen)
    feed(second, range(23, 50))
    assert torch.equal(second.table(), whole.table())
    assert (second.stride, second.seen) == (whole.stride, whole.seen)
    assert StridedPoints(6).table().shape == (0, 1)
