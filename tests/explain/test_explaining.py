from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from coprs_lightning.decoders import UpsampleDecoder
from coprs_lightning.explain import Case, Levels, box_heatmap, explain, segment_with_heatmap
from coprs_lightning.explain.explanation import BOX, GIVEN, OTHER_THOUGHT, TARGET, WITHOUT_THOUGHT, mask_iou
from tests.explain.build import QUESTION, THOUGHT, photo, say, speaking_model, target
from tests.parts import CHANNELS, small_model


@pytest.fixture(scope="module")
def model():
    return speaking_model()


@pytest.fixture(scope="module")
def found(model):
    return explain(
        model,
        photo(),
        QUESTION,
        thoughts=["", "a green circle", THOUGHT],
        box=(10, 5, 40, 30),
        heatmap=torch.linspace(-9, 4, 60).expand(40, 60),
        target=target(),
    )


def test_the_answer_is_the_model_s(model, found):
    answer = model.segment(photo(), QUESTION)
    own = found.original
    assert own.completion == answer.completion
    assert own.thought == answer.thought == THOUGHT
    assert np.array_equal(own.mask, answer.mask)
    np.testing.assert_allclose(own.heatmap, answer.heatmap, atol=1e-6)
    assert np.array_equal(own.before, answer.heatmap > 0.5)
    assert own.iou is None
    assert own.iou_target == mask_iou(answer.mask, target())
    assert own.before_iou_target == mask_iou(own.before, target())
    assert own.inside_target == pytest.approx(own.heatmap[target()].sum() / own.heatmap.sum(), rel=1e-4)


def test_counterfactuals_in_their_order(found):
    names = [one.name for one in found.counterfactuals]
    assert names == [WITHOUT_THOUGHT, OTHER_THOUGHT, OTHER_THOUGHT, BOX, GIVEN, TARGET]
    assert [one.completion is None for one in found.counterfactuals] == [False] * 3 + [True] * 3
    for one in found.counterfactuals:
        assert one.iou == mask_iou(one.mask, found.original.mask)
        assert one.iou_target == mask_iou(one.mask, target())


def test_thoughts_are_run_through_the_whole_model(model, found):
    without, other, same = found.counterfactuals[:3]
    assert (without.thought, other.thought, same.thought) == ("", "a green circle", THOUGHT)
    assert same.iou == 1.0
    np.testing.assert_allclose(same.heatmap, found.original.heatmap, atol=1e-6)
    case = Case(model, photo(), QUESTION)
    with torch.no_grad():
        expected = case.to_image(case.run(case.thinking("a green circle")).mask_logits[0])[0]
    np.testing.assert_allclose(other.mask_probability, expected.sigmoid().numpy(), atol=1e-5)
    assert not np.allclose(other.heatmap, found.original.heatmap, atol=1e-3)


def test_given_heatmaps_go_through_the_decoder_alone(model, found):
    box, given, perfect = found.counterfactuals[3:]
    with torch.no_grad():
        logits = box_heatmap((10, 5, 40, 30), (40, 60), found.levels)
        expected = segment_with_heatmap(model, photo(), logits)
        np.testing.assert_allclose(box.mask_probability, expected.sigmoid().numpy(), atol=1e-5)
        expected = segment_with_heatmap(model, photo(), torch.linspace(-9, 4, 60).expand(40, 60))
    np.testing.assert_allclose(given.mask_probability, expected.sigmoid().numpy(), atol=1e-5)
    assert perfect.before_iou_target > 0.6  # the heatmap's grid is coarse
    assert perfect.inside_target > 0.8


def test_words_with_probability_entropy_and_influence(model, found):
    case = Case(model, photo(), QUESTION)
    completions = case.written()
    with torch.no_grad():
        output = case.run(completions)
        logits = model.policy.completion_logits(output.policy)[0]
    logits = logits.masked_fill(model.policy._suppressed, -torch.inf)
    probabilities = logits.softmax(-1)
    assert [word.token for word in found.words] == completions.ids[0].tolist()
    assert "".join(word.text for word in found.words).startswith(completions.texts[0])
    for place, word in enumerate(found.words):
        own = probabilities[place]
        assert word.probability == pytest.approx(own[word.token].item(), rel=1e-3)
        assert word.entropy == pytest.approx(-(own * own.clamp_min(1e-30).log()).sum().item(), rel=1e-3)
    thought = [word for word in found.words if word.part == "thought"]
    assert "".join(word.text for word in thought).strip() == THOUGHT
    assert all(word.left_out is not None for word in thought)
    assert all((word.left_out is None) == (word.part != "thought") for word in found.words)
    assert found.region == "target"
    assert 0 < found.region_share < 1


def test_the_prompt_s_words_without_the_image(found):
    text = "".join(word.text for word in found.prompt)
    assert QUESTION in text
    assert "<|image_pad|>" not in text
    assert all(word.part == "prompt" and word.probability is None for word in found.prompt)
    assert sum(word.gradient != 0 for word in found.prompt) > 10


def test_maps_of_every_head_before_they_are_fused(model, found):
    assert [(one.name, one.slot) for one in found.head_maps] == [(f"head {i}", 1) for i in (1, 2, 3, 4)]
    case = Case(model, photo(), QUESTION)
    with torch.no_grad():
        output = case.run(case.written())
        query = model.aggregator(output.policy).query
        logits = model.heatmap_head.head_logits(query, case.features)[0, 0]
    for one, expected in zip(found.head_maps, case.to_image(logits), strict=True):
        assert one.values.shape == (40, 60)
        np.testing.assert_allclose(one.values, expected.numpy(), atol=1e-5)


def test_gradient_and_logits_have_the_image_s_size(found):
    assert found.heatmap_gradient.shape == (40, 60)
    assert np.abs(found.heatmap_gradient).max() > 0
    assert 0 < found.soft_iou < 1
    assert found.heatmap_logits.shape == (1, 40, 60)
    np.testing.assert_allclose(1 / (1 + np.exp(-found.heatmap_logits[0])), found.original.heatmap, atol=1e-5)


def test_the_written_heatmap_given_back_is_nearly_the_answer(model, found):
    again = explain(model, photo(), QUESTION, thoughts=[], heatmap=torch.from_numpy(found.heatmap_logits), leave_out=0)
    (given,) = again.counterfactuals
    assert given.name == GIVEN
    assert np.abs(given.heatmap - found.original.heatmap).mean() < 0.05
    assert all(word.left_out is None for word in again.words)
    assert again.region in ("mask", "heatmap")


def test_a_drawing_takes_the_levels_of_the_model(model, tmp_path):
    pixels = np.zeros((40, 60), dtype=np.uint8)
    pixels[5:30, 10:40] = 255
    Image.fromarray(pixels).save(tmp_path / "box.png")
    found = explain(model, photo(), QUESTION, thoughts=[], box=(10, 5, 40, 30), heatmap=tmp_path / "box.png")
    box, drawn = found.counterfactuals
    assert found.levels != Levels()
    np.testing.assert_allclose(box.mask_probability, drawn.mask_probability, atol=1e-6)


def test_only_the_first_words_are_left_out(model):
    found = explain(model, photo(), QUESTION, target=target(), leave_out=2)
    measured = [word.left_out is not None for word in found.words if word.part == "thought"]
    assert measured == [True, True] + [False] * (len(measured) - 2)


def test_without_a_concentration_token():
    model = speaking_model()
    completions = model.policy.encode_completions(["red"])
    keep = completions.ids[0] != model.policy.concentration_id
    completions.ids, completions.mask = completions.ids[:, keep], completions.mask[:, keep]
    completions.texts = ["<think> red </think>"]
    say(model, completions)
    found = explain(model, photo(), QUESTION, box=(0, 0, 30, 30), target=target())
    assert not found.original.present
    assert not found.original.mask.any()
    assert found.original.heatmap.max() < 1e-6
    assert found.levels == Levels()
    assert (found.head_maps, found.heatmap_gradient, found.region) == ([], None, None)
    assert found.heatmap_logits.shape == (0, 40, 60)
    assert all(word.gradient is None for word in found.words)
    assert found.counterfactuals[0].present
    assert "no concentration token" in found.findings[0]


def test_several_tokens_have_maps_each_and_one_answer():
    model = speaking_model(num_tokens=3)
    with torch.no_grad():
        model.aggregator.confidence_bias.copy_(torch.tensor([50.0, -50.0, 50.0]))
        model.aggregator.confidence.weight.zero_()
    found = explain(model, photo(), QUESTION, target=target(), heatmap=torch.randn(2, 40, 60))
    assert sorted({one.slot for one in found.head_maps}) == [1, 3]
    assert found.heatmap_logits.shape == (2, 40, 60)
    assert (found.num_tokens, found.num_slots, found.original.objects) == (3, 3, 2)
    union = 1 / (1 + np.exp(-found.heatmap_logits.max(0)))
    np.testing.assert_allclose(found.original.heatmap, union, atol=2e-2)  # resizing before the union and after it
    assert np.array_equal(found.original.mask, model.segment(photo(), QUESTION).mask)
    assert [one.objects for one in found.counterfactuals if one.name == GIVEN] == [2]
    assert [word.part for word in found.words].count("concentration") == 3


def test_nothing_fits_is_explained_by_what_was_not_chosen():
    model = speaking_model(num_tokens=2)
    with torch.no_grad():
        model.aggregator.confidence_bias.fill_(-50.0)
    found = explain(model, photo(), QUESTION, target=target())
    assert found.original.present
    assert found.original.objects == 0
    assert not found.original.mask.any()
    assert {one.slot for one in found.head_maps} == {1, 2}
    assert any("nothing fits" in sentence for sentence in found.findings)


def test_a_model_without_a_decoder():
    model = small_model(decoder=UpsampleDecoder(in_channels=CHANNELS))
    say(model, model.policy.encode_completions([THOUGHT]))
    found = explain(model, photo(), QUESTION, target=target())
    assert not found.has_decoder
    assert [one.name for one in found.counterfactuals] == [WITHOUT_THOUGHT]
    assert found.original.decoder_iou > 0.95
    with pytest.raises(ValueError, match="heatmap replaces the heatmap, but this model has no decoder stage"):
        explain(model, photo(), QUESTION, heatmap=torch.zeros(40, 60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": np.zeros((60, 40), dtype=bool)}, r"target is bool of the shape \(60, 40\)"),
        ({"target": np.zeros((40, 60))}, "target is float64"),
        ({"heatmap": torch.zeros(3, 3)}, r"has the shape \(3, 3\)"),
        ({"box": (50, 0, 70, 10)}, "reaches outside"),
    ],
)
def test_what_does_not_fit_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        explain(model, photo(), QUESTION, **options)
    with pytest.raises(ValueError, match="there is nothing to look for"):
        explain(model, photo(), "")
