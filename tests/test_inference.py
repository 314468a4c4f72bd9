"""Answers in Python: one or many, from images of any kind, with several objects, and as they are written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from coprs_lightning.aggregators import MultiTokenAggregator
from coprs_lightning.images import as_pixels
from coprs_lightning.inference import Answer, answers, batch_from_images, stream
from coprs_lightning.model import CoprsModel
from coprs_lightning.prompts import several_prompt
from coprs_lightning.structures import NO_PRIOR_LOGIT, Completions, SegmentationBatch, SegmentationOutput
from tests.parts import FRAME, photos, small_model, small_policy
from tests.talkative import talkative_model

SIZES = ((40, 60), (64, 20), (17, 90), (50, 50))
QUESTIONS = ["a", "the b", "the c of d", "what is the large e of f?"]


@pytest.fixture(scope="module")
def model() -> CoprsModel:
    """Shared by all tests: none changes it."""
    return talkative_model()


def pictures() -> list[np.ndarray]:
    return [image.permute(1, 2, 0).numpy() for image in photos(*SIZES)]


def same(first: Answer, second: Answer) -> bool:
    texts = first.question == second.question and first.completion == second.completion
    return texts and np.allclose(first.mask_probability, second.mask_probability, atol=1e-4)


class TestSegment:
    def test_one_image_and_one_question_give_one_answer(self, model):
        image = pictures()[3]
        answer = model.segment(image, QUESTIONS[3])
        assert isinstance(answer, Answer)
        assert answer.question == QUESTIONS[3]
        assert answer.mask.shape == answer.heatmap.shape == answer.mask_probability.shape == (50, 50)
        assert (answer.mask.dtype, answer.heatmap.dtype) == (np.bool_, np.float32)
        assert np.array_equal(answer.mask, answer.mask_probability > 0.5)
        assert answer.present
        assert answer.mask.any()
        assert answer.truncated
        (only,) = answer.objects
        assert np.array_equal(only.mask, answer.mask)
        assert np.array_equal(only.heatmap, answer.heatmap)
        assert answer.score == only.score == pytest.approx(answer.mask_probability[answer.mask].mean())
        assert 0.5 < answer.score < 1

    def test_batches_order_and_padding_do_not_change_answers(self, model):
        images = pictures()
        alone = [model.segment(image, question) for image, question in zip(images, QUESTIONS, strict=True)]
        assert len({answer.completion for answer in alone}) == 4
        assert all(answer.present for answer in alone)
        order = [2, 0, 3, 1]
        for batch_size in (1, 3, 4):
            together = model.segment([images[i] for i in order], [QUESTIONS[i] for i in order], batch_size=batch_size)
            assert all(same(alone[i], answer) for i, answer in zip(order, together, strict=True))

    def test_paths_pillow_arrays_and_tensors_give_the_same(self, model, tmp_path: Path):
        array = pictures()[0]
        Image.fromarray(array).save(tmp_path / "a.png")
        kinds: list[Any] = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array]
        kinds.append(torch.from_numpy(array).permute(2, 0, 1))
        first, *others = (model.segment(image, "the b") for image in kinds)
        assert all(same(first, other) for other in others)

    def test_one_of_anything_goes_with_each_of_the_other(self, model):
        images = pictures()[:2]
        by_image = model.segment(images, "the b")
        by_question = model.segment(images[0], ["a", "the b"])
        assert [answer.mask.shape for answer in by_image] == [(40, 60), (64, 20)]
        assert [answer.question for answer in by_question] == ["a", "the b"]
        assert same(by_image[0], by_question[1])
        assert len(model.segment(images[:1], "a")) == 1
        assert model.segment([], []) == []

    def test_longest_completion_is_the_models_or_the_callers(self, model):
        image = pictures()[0]
        lengths = {
            limit: len(model.policy.tokenizer(model.segment(image, "a", max_new_tokens=limit).completion)["input_ids"])
            for limit in (1, 3, None)
        }
        assert lengths == {1: 1, 3: 3, None: 6}

    def test_temperature_samples(self, model):
        image = pictures()[0]
        assert len({model.segment(image, "a", temperature=9.0).completion for _ in range(3)}) == 3

    def test_mistakes_are_refused(self, model, tmp_path: Path):
        image = pictures()[0]
        with pytest.raises(ValueError, match="2 images, but 3 questions: give one for each, or a single one for all"):
            model.segment([image, image], ["a", "b", "c"])
        for question in ("", "  \n", None, 3):
            with pytest.raises(ValueError, match="is empty or no text: there is nothing to look for"):
                model.segment([image], [question])
        with pytest.raises(ValueError, match=r"images\[2\]: there is no image .*gone\.png"):
            model.segment([image, image, tmp_path / "gone.png"], "a", batch_size=2)
        with pytest.raises(ValueError, match=r"^there is no image .*gone\.png"):
            model.segment(tmp_path / "gone.png", "a")
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            model.segment(image, "a", batch_size=0)
        with pytest.raises(ValueError, match="max_new_tokens must be ≥ 1, got 0"):
            model.segment(image, "a", max_new_tokens=0)
        with pytest.raises(ValueError, match="more than max_prompt_tokens"):
            model.segment(image, "red " * 2500)


class TestStream:
    def test_the_text_grows_and_the_answer_is_that_of_segment(self, model):
        image = pictures()[3]
        *texts, answer = stream(model, image, QUESTIONS[3])
        expected = model.segment(image, QUESTIONS[3])
        assert isinstance(answer, Answer)
        assert same(answer, expected)
        assert np.array_equal(answer.mask, expected.mask)
        assert len(texts) == 6
        assert texts[-1] == answer.completion
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
        assert len(set(texts)) > 3

    def test_the_mode_is_given_back_between_the_texts(self):
        model = talkative_model()
        model.train()
        steps = stream(model, pictures()[0], "a", max_new_tokens=2)
        next(steps)
        assert model.training
        assert torch.is_grad_enabled()
        assert isinstance([*steps][-1], Answer)
        assert model.training

    def test_mistakes_are_refused(self, model, tmp_path: Path):
        with pytest.raises(ValueError, match="is empty or no text"):
            next(stream(model, pictures()[0], " "))
        with pytest.raises(ValueError, match="there is no image"):
            next(stream(model, tmp_path / "gone.png", "a"))
        with pytest.raises(ValueError, match="more than max_prompt_tokens"):
            next(stream(model, pictures()[0], "red " * 2500))


def several_model() -> CoprsModel:
    """Three concentration tokens, and text that has many of them."""
    policy = small_policy(prompt=several_prompt(3))
    model = small_model(policy=policy, aggregator=MultiTokenAggregator(num_tokens=3, hidden_size=policy.hidden_size))
    liked = nn.functional.one_hot(torch.tensor(policy.concentration_id), 1408) * 8.0
    policy.lm.lm_head.register_forward_hook(lambda module, args, output: output + liked)
    model.max_new_tokens = 6
    return model


def output_of(
    heatmaps: torch.Tensor, masks: torch.Tensor, present: list[bool], confidence: list[float] | None, text: str
) -> tuple[SegmentationBatch, SegmentationOutput]:
    """One row of K slots, over a 16 × 32 image in a frame of 32."""
    batch = batch_from_images(photos((16, 32)), ["q"], FRAME)
    ids = torch.zeros(1, 1, dtype=torch.long)
    completions = Completions(ids, ids.bool(), [text], torch.tensor([False]))
    policy = small_policy()
    with torch.no_grad():
        passed = policy(policy.encode_prompts(batch.images, batch.questions), completions)
    output = SegmentationOutput(
        heatmap_logits=heatmaps[None],
        mask_logits=masks[None],
        present=torch.tensor([present]),
        policy=passed,
        completions=completions,
        confidence_logits=None if confidence is None else torch.tensor([confidence]),
    )
    return batch, output


class TestObjects:
    TEXT = "<think> two of them </think> here <REF_POS>"

    @staticmethod
    def slots() -> torch.Tensor:
        """Three slots that cover a third of the frame's columns each."""
        slots = torch.full((3, 32, 32), -6.0)
        for slot, columns in enumerate(torch.arange(32).tensor_split(3)):
            slots[slot, :, columns] = 2.0 + slot
        return slots

    def test_chosen_slots_are_objects_and_their_union_is_the_answer(self):
        slots = self.slots()
        batch, output = output_of(slots, slots, [True, True, True], [4.0, -4.0, 1.0], self.TEXT)
        (answer,) = answers(batch, output, FRAME)
        assert (answer.thought, answer.answer) == ("two of them", "here")
        assert len(answer.objects) == 2
        assert [one.mask[:, 5].all() for one in answer.objects] == [True, False]
        assert [one.mask[:, 28].all() for one in answer.objects] == [False, True]
        assert np.array_equal(answer.mask, answer.objects[0].mask | answer.objects[1].mask)
        assert not answer.mask[:, 16].any()
        scores = [one.score for one in answer.objects]
        certain = torch.tensor([4.0, 1.0]).sigmoid().tolist()
        inside = [one.mask_probability[one.mask].mean() for one in answer.objects]
        assert scores == pytest.approx([c * p for c, p in zip(certain, inside, strict=True)])
        assert answer.score == scores[0] > scores[1]
        assert (answer.num_tokens, answer.num_slots, answer.well_formed) == (1, 3, False)

    def test_a_model_of_several_tokens_tells_its_objects(self):
        model = several_model()
        image = pictures()[3]
        answer = model.segment(image, "all of them")
        with torch.no_grad():
            _, output = model.generate_and_segment([as_pixels(image)], ["all of them"], max_new_tokens=6)
        assert answer.num_slots == 3
        assert len(answer.objects) == int(output.chosen.sum()) > 0
        assert [one.score for one in answer.objects] == sorted((one.score for one in answer.objects), reverse=True)
        assert np.array_equal(answer.mask, np.logical_or.reduce([one.mask for one in answer.objects]))
        model.aggregator.confidence_bias.data.fill_(-100.0)
        answer = model.segment(image, "all of them")
        assert answer.present
        assert answer.nothing_fits
        assert answer.objects == []

    def test_no_confident_slot_means_that_nothing_fits(self):
        slots = self.slots()
        batch, output = output_of(slots, slots, [True, True, True], [-1.0, -4.0, -0.1], self.TEXT)
        (answer,) = answers(batch, output, FRAME)
        assert answer.present
        assert answer.nothing_fits
        assert answer.objects == []
        assert answer.score == 0
        assert not answer.mask.any()
        assert answer.heatmap.max() < 1e-6

    def test_a_missing_token_is_something_else(self):
        empty = torch.full((1, 32, 32), NO_PRIOR_LOGIT)
        batch, output = output_of(empty, empty, [False], None, "<think> red </think> no token")
        (answer,) = answers(batch, output, FRAME)
        assert not answer.present
        assert not answer.nothing_fits
        assert answer.objects == []
        assert answer.score == 0
        assert not answer.mask.any()

    def test_an_empty_mask_of_the_only_slot_fits_nothing(self):
        batch, output = output_of(self.slots()[:1], torch.full((1, 32, 32), -3.0), [True], None, self.TEXT)
        (answer,) = answers(batch, output, FRAME)
        assert answer.nothing_fits
        assert [one.score for one in answer.objects] == [0.0]
        assert answer.heatmap.max() > 0.8
