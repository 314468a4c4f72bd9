"""Completions that the transformers policy writes itself."""

from __future__ import annotations

import math

import pytest
import torch

from tests.parts import small_policy
from tests.policies.passes import IMAGES, QUESTIONS, THOUGHTS, full_logits, repeated


class TestGeneration:
    def test_greedy_is_an_argmax_loop_over_full_passes(self, policy, prompts):
        """No cache, no incremental positions: every step encodes everything anew, one prompt at a time."""
        steps = 12
        generated = policy.generate(prompts, max_new_tokens=steps)
        forbidden = torch.tensor(policy._forbidden_ids)
        for row in range(3):
            prompt = policy.encode_prompts([IMAGES[row]], [QUESTIONS[row]])
            ids = torch.zeros(1, 0, dtype=torch.long)
            while ids.shape[1] < steps and not torch.isin(ids, torch.tensor(policy._eos_ids)).any():
                scores = full_logits(policy, prompt, ids, torch.ones_like(ids, dtype=torch.bool))[0, -1]
                scores[forbidden] = -float("inf")
                ids = torch.cat([ids, scores.argmax().view(1, 1)], 1)
            assert generated.ids[row, generated.mask[row]].tolist() == ids[0].tolist()
        assert len({tuple(row) for row in generated.ids.tolist()}) == 3

    def test_greedy_is_repeatable_and_temperature_is_not(self, policy, prompts):
        first, second = (policy.generate(prompts, max_new_tokens=8) for _ in range(2))
        assert torch.equal(first.ids, second.ids)
        hot, hotter = (policy.generate(prompts, max_new_tokens=8, temperature=5.0) for _ in range(2))
        assert not torch.equal(hot.ids, hotter.ids)

    def test_samples_follow_the_models_distribution(self, brief):
        """First tokens of many samples against softmax(logits / temperature)."""
        count, temperature = 1500, 0.4
        one = brief.encode_prompts(IMAGES[2:], QUESTIONS[2:])
        empty = torch.zeros(1, 0, dtype=torch.long)
        scores = full_logits(brief, one, empty, empty.bool())[0, -1]
        scores[brief._forbidden_ids] = -float("inf")
        expected = (scores / temperature).softmax(0)
        sampled = brief.generate(repeated(one, count), max_new_tokens=1, temperature=temperature)
        seen = torch.bincount(sampled.ids[:, 0], minlength=len(expected)) / count
        likely = expected > 0.02
        assert expected[likely].sum() > 0.4
        error = (expected * (1 - expected) / count).sqrt()
        assert ((seen - expected).abs() < 5 * error)[likely].all()

    def test_samples_never_hold_placeholders_or_chat_markers(self, brief):
        """At a temperature where every token is as likely as any other."""
        many = repeated(brief.encode_prompts(IMAGES[2:], QUESTIONS[2:]), 200)
        sampled = brief.generate(many, max_new_tokens=60, temperature=1000.0)
        seen = set(sampled.ids[sampled.mask].tolist())
        names = [
            "<|im_start|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|image_pad|>",
            "<|video_pad|>",
            "<|endoftext|>",
        ]
        assert not seen & set(brief.tokenizer.convert_tokens_to_ids(names))
        assert max(seen) < len(brief.tokenizer)  # rows beyond the vocabulary decode to nothing
        assert {brief.concentration_id, brief.tokenizer.eos_token_id} <= seen
        assert len(seen) > 1300
        assert 0 < sampled.truncated.sum() < 200

    def test_the_mask_ends_with_the_first_end_of_sequence(self, policy):
        end, pad = policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id
        ids = torch.tensor([[65, end, 66, end], [65, 66, 67, 68], [65, 66, 67, end], [end, pad, pad, pad]])
        completions = policy._completions(ids)
        assert completions.mask.tolist() == [
            [True, True, False, False],
            [True, True, True, True],
            [True, True, True, True],
            [True, False, False, False],
        ]
        assert completions.truncated.tolist() == [False, True, False, False]
        assert completions.ids[0].tolist() == [65, end, pad, pad]
        assert completions.texts == [policy.tokenizer.decode(row) for row in ([65], [65, 66, 67, 68], [65, 66, 67], [])]

    def test_generation_stops_at_the_end_of_the_turn(self):
        """A head that asks for the end on every step: nothing else is written."""
        hasty = small_policy()
        end = hasty.tokenizer.eos_token_id
        asked = torch.nn.functional.one_hot(torch.tensor(end), 1408) * 1000.0
        hasty.lm.lm_head.register_forward_hook(lambda module, args, output: output + asked)
        completions = hasty.generate(hasty.encode_prompts(IMAGES[:2], QUESTIONS[:2]), max_new_tokens=6)
        assert completions.mask.sum(1).tolist() == [1, 1]
        assert completions.truncated.tolist() == [False, False]
        assert (completions.ids[:, 0] == end).all()

    def test_texts_are_what_was_written(self, policy, prompts):
        completions = policy.generate(prompts, max_new_tokens=8)
        for ids, mask, text in zip(completions.ids, completions.mask, completions.texts, strict=True):
            assert text == policy.tokenizer.decode(ids[mask])
        assert completions.truncated.all()

    def test_generating_leaves_mode_and_gradients_alone(self, prompts):
        policy = small_policy().train()
        policy.generate(prompts, max_new_tokens=2)
        assert policy.lm.training
        assert policy(prompts, policy.encode_completions(THOUGHTS)).hidden.requires_grad

    @pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
    def test_a_temperature_out_of_range_is_refused(self, policy, prompts, temperature):
        with pytest.raises(ValueError, match="temperature must be ≥ 0 and finite"):
            policy.generate(prompts, max_new_tokens=2, temperature=temperature)

    @pytest.mark.parametrize("top_p", [0.0, -1.0, 1.5])
    def test_a_top_p_out_of_range_is_refused(self, policy, prompts, top_p):
        with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got"):
            policy.generate(prompts, max_new_tokens=2, temperature=1.0, top_p=top_p)

    def test_no_new_tokens_are_refused(self, policy, prompts):
        with pytest.raises(ValueError, match="max_new_tokens must be ≥ 1, got 0"):
            policy.generate(prompts, max_new_tokens=0)
