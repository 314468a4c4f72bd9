from __future__ import annotations

import pytest
import torch

from coprs_lightning.explain import (
    Case,
    heatmap_gradient,
    left_out,
    mask_heatmap,
    optimise_heatmap,
    region_on_grid,
    segment_with_heatmap,
    soft_iou,
    word_gradient,
)
from coprs_lightning.explain.gradients import share_inside
from coprs_lightning.structures import Completions
from tests.explain.build import QUESTION, THOUGHT, photo, speaking_model, target


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(speaking_model(), photo(), QUESTION)


@pytest.fixture(scope="module")
def region(case: Case) -> torch.Tensor:
    return region_on_grid(case, torch.from_numpy(target()))


def test_soft_iou_of_certain_masks_is_the_iou():
    masks = torch.full((2, 4, 4), -50.0)
    masks[0, :, 0], masks[1, :, 1] = 50.0, 50.0
    region = torch.zeros(4, 4)
    region[:, 1:3] = 1
    assert soft_iou(masks, region).item() == pytest.approx(4 / 12)


def test_share_inside_is_the_share_of_the_union_on_the_image():
    heatmaps = torch.full((2, 4, 4), -50.0)
    heatmaps[0, 0, 0] = heatmaps[1, 0, 0] = heatmaps[1, 1, 1] = 50.0
    heatmaps[:, 3] = 50.0  # padding
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[3] = False
    region = torch.zeros(4, 4)
    region[0] = 1
    assert share_inside(heatmaps, region, valid).item() == pytest.approx(0.5)
    assert share_inside(torch.full((1, 4, 4), -200.0), region, valid).item() == 0


def test_region_on_the_grid_is_the_region(case: Case, region: torch.Tensor):
    assert region.shape == case.grid
    assert 0 <= region.min() <= region.max() <= 1
    assert region.sum() / case.inside.sum() == pytest.approx(target().mean(), rel=0.1)
    assert (region[~case.inside] == 0).all()


def test_gradient_of_the_mask_by_central_differences(case: Case):
    wanted = torch.from_numpy(target())
    heatmap = torch.randn(1, *case.grid, generator=torch.Generator().manual_seed(3))
    score, gradient = heatmap_gradient(case, heatmap, wanted)

    def score_of(logits: torch.Tensor) -> float:
        with torch.no_grad():
            return soft_iou(case.to_image(case.decode(logits)), wanted.float()).item()

    assert score == pytest.approx(score_of(heatmap))
    assert gradient.shape == heatmap.shape
    direction = gradient / gradient.norm()
    step = 0.05
    measured = (score_of(heatmap + step * direction) - score_of(heatmap - step * direction)) / (2 * step)
    assert gradient.norm().item() == pytest.approx(measured, rel=0.02)
    other = torch.randn(heatmap.shape, generator=torch.Generator().manual_seed(4))
    measured = (score_of(heatmap + step * other) - score_of(heatmap - step * other)) / (2 * step)
    assert (gradient * other).sum().item() == pytest.approx(measured, rel=0.05, abs=2e-5)


def test_gradient_times_embedding_by_central_differences(case: Case, region: torch.Tensor):
    """It is the change by stretching one token's embedding, which a hook does here."""
    completions = case.written()
    found = word_gradient(case, completions, region, [0])
    assert found.prompt.shape == case.prompts.input_ids[0].shape
    assert found.completion.shape == completions.ids[0].shape
    length = found.prompt.shape[0]
    values = torch.cat([found.prompt, found.completion])

    def share_of(position: int, factor: float) -> float:
        def stretch(module, args, output):
            output = output.clone()
            output[0, position] *= factor
            return output

        hook = case.model.policy.lm.get_input_embeddings().register_forward_hook(stretch)
        with torch.no_grad():
            output = case.run(completions)
        hook.remove()
        return share_inside(output.heatmap_logits[0], region, case.inside).item()

    assert found.share == pytest.approx(share_of(0, 1.0))
    positions = [*values.abs().topk(4).indices.tolist(), length + 3, length - 2]
    for position in positions:
        measured = (share_of(position, 1.01) - share_of(position, 0.99)) / 0.02
        assert values[position].item() == pytest.approx(measured, rel=0.03, abs=3e-5)


def test_only_what_the_concentration_token_has_seen_matters(case: Case, region: torch.Tensor):
    completions = case.written()
    found = word_gradient(case, completions, region, [0])
    token = int((completions.ids[0] == case.model.policy.concentration_id).nonzero()[-1])
    assert (found.completion[: token + 1] != 0).all()
    assert (found.completion[token + 1 :] == 0).all()
    image = case.prompts.input_ids[0] == case.model.policy._image_id
    assert image.any()
    assert (found.prompt[image] == 0).all()


def test_no_parameter_keeps_a_gradient_and_no_hook_is_left(case: Case, region: torch.Tensor):
    embedding = case.model.policy.lm.get_input_embeddings()
    before = len(embedding._forward_hooks)
    word_gradient(case, case.written(), region, [0])
    heatmap_gradient(case, torch.zeros(1, *case.grid), torch.from_numpy(target()))
    assert len(embedding._forward_hooks) == before
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_it_works_for_a_frozen_model_too(region: torch.Tensor):
    model = speaking_model()
    model.requires_grad_(False)
    frozen = Case(model, photo(), QUESTION)
    assert word_gradient(frozen, frozen.written(), region, [0]).completion.abs().max() > 0


def test_left_out_is_the_pass_without_the_token(region: torch.Tensor):
    long = Case(speaking_model(THOUGHT * 3), photo(), QUESTION)
    completions = long.written()
    positions = list(range(1, 24))  # more than one pass takes
    shares = left_out(long, completions, positions, region, [0])
    assert len(shares) == 23
    for place in (0, 9, 22):
        kept = [i for i in range(completions.ids.shape[1]) if i != positions[place]]
        shorter = Completions(
            completions.ids[:, kept], completions.mask[:, kept], completions.texts, completions.truncated
        )
        with torch.no_grad():
            output = long.run(shorter)
        expected = share_inside(output.heatmap_logits[0], region, long.inside).item()
        assert shares[place] == pytest.approx(expected, rel=1e-3)
    assert len(set(shares)) > 10
    assert left_out(long, completions, [], region, [0]) == []


def test_a_policy_of_another_kind_is_refused(case: Case, region: torch.Tensor):
    model = speaking_model()
    other = Case(model, photo(), QUESTION)
    del model.policy.tokenizer
    with pytest.raises(ValueError, match="has no `lm` and `tokenizer` of transformers"):
        word_gradient(other, case.written(), region, [0])


class TestOptimise:
    def test_it_climbs_and_gives_the_best(self, case: Case):
        wanted = torch.from_numpy(target())
        found = optimise_heatmap(case, wanted, torch.zeros(case.grid), steps=15)
        assert len(found.scores) == 16
        assert max(found.scores) > found.scores[0] + 0.05
        assert found.logits.shape == case.grid
        assert soft_iou(found.mask_logits[None], wanted.float()).item() == pytest.approx(max(found.scores), abs=1e-5)
        assert all(parameter.grad is None for parameter in case.model.parameters())

    def test_it_starts_from_the_region(self, case: Case):
        found = optimise_heatmap(case, torch.from_numpy(target()), steps=3)
        with torch.no_grad():
            drawn = segment_with_heatmap(case.model, photo(), mask_heatmap(target()))
        first = soft_iou(drawn[None], torch.from_numpy(target()).float()).item()
        assert found.scores[0] == pytest.approx(first, abs=1e-5)
        assert max(found.scores) > first

    def test_no_step_is_the_start(self, case: Case):
        start = torch.randn(case.grid)
        found = optimise_heatmap(case, torch.from_numpy(target()), start, steps=0)
        assert torch.equal(found.logits, start)
        assert len(found.scores) == 1
