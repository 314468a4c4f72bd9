"""Every family of image-text-to-text models, from a folder in its public format to gradients."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, MistralConfig

from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.tokens import placeholders
from coprs_lightning.structures import Completions, Prompts
from tests.parts import photos
from tests.policies.families import FAMILIES, TEXT, save_family
from tests.policies.passes import QUESTIONS, THOUGHTS, run

IMAGES = photos((40, 60), (90, 80), (30, 100))
IMAGE_TOKENS = {
    "qwen2_5_vl": [2, 9, 4],  # patches of 14, merged 2 × 2, at most 84 × 84 pixels
    "qwen3_vl": [2, 6, 3],
    "llava": [9, 9, 9],  # cropped to a square
    # 4 of the whole image, the rows of a grid of 2 × 2 tiles that fit its shape, and a line break each
    "llava_onevision": [32, 46, 18],
    "smolvlm": [7, 10, 4],  # one a tile, one of the whole image
}
TURN_END = {
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
    "llava": "</s>",
    "llava_onevision": "<|im_end|>",
    "smolvlm": "<end_of_utterance>",
}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def policy(folder: Path) -> HFPolicy:
    return HFPolicy(model=str(folder)).eval()


@pytest.fixture(scope="module")
def prompts(policy: HFPolicy) -> Prompts:
    return policy.encode_prompts(IMAGES, QUESTIONS)


@pytest.fixture(scope="module")
def written(policy: HFPolicy) -> Completions:
    return policy.encode_completions(THOUGHTS)


def test_images_of_any_size_take_the_familys_own_tokens(family: str, policy: HFPolicy, prompts: Prompts) -> None:
    rows = (prompts.input_ids == policy._image_id).sum(1).tolist()
    assert rows == IMAGE_TOKENS[family]
    assert not prompts.attention_mask.all()
    assert prompts.attention_mask[:, -1].all()  # padded on the left


def test_prompts_are_what_the_processor_itself_makes_of_the_chat(policy: HFPolicy, prompts: Prompts) -> None:
    for row, question in enumerate(QUESTIONS):
        parts = [
            {"type": "image", "image": IMAGES[row]},
            {"type": "text", "text": policy.prompt.render_user(question)},
        ]
        chat = [
            {"role": "system", "content": [{"type": "text", "text": policy.prompt.system}]},
            {"role": "user", "content": parts},
        ]
        options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
        expected = policy.processor.apply_chat_template(chat, **options)["input_ids"]
        assert prompts.input_ids[row, prompts.attention_mask[row]].tolist() == expected[0].tolist()


def test_a_prompt_in_a_batch_is_the_prompt_alone(policy: HFPolicy, prompts: Prompts, written: Completions) -> None:
    together = run(policy, prompts, written)
    for row in range(3):
        alone = run(policy, policy.encode_prompts([IMAGES[row]], [QUESTIONS[row]]), written.part(row, row + 1))
        real = together.attention_mask[row]
        torch.testing.assert_close(together.hidden[row, real], alone.hidden[0][alone.attention_mask[0]], **CLOSE)


def test_the_token_is_found_in_the_completion_only(policy: HFPolicy, prompts: Prompts, written: Completions) -> None:
    assert (prompts.input_ids == policy.concentration_id).any(1).all()  # the prompt spells it too
    output = run(policy, prompts, written)
    assert output.token_mask.sum(1).tolist() == [1, 1, 1]
    assert not output.token_mask[:, : output.prompt_length].any()
    assert output.image_mask.sum(1).tolist() == (prompts.input_ids == policy._image_id).sum(1).tolist()


def test_the_image_changes_the_state_at_the_token(policy: HFPolicy, prompts: Prompts, written: Completions) -> None:
    others = [image.flip(1, 2) for image in IMAGES]
    changed = run(policy, policy.encode_prompts(others, QUESTIONS), written)
    output = run(policy, prompts, written)
    assert ((changed.hidden - output.hidden)[output.token_mask].abs().amax(1) > 0.005).all()


def group_of(policy: HFPolicy) -> Completions:
    """Two completions a prompt, of different lengths."""
    pairs = zip(THOUGHTS, reversed(QUESTIONS), strict=True)
    return policy.encode_completions([thought for pair in pairs for thought in pair])


def results(policy: HFPolicy, shared: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    policy.shared_prefix = shared
    policy.zero_grad()
    completions = group_of(policy)
    output = policy(policy.encode_prompts(IMAGES, QUESTIONS), completions)
    log_probs = policy.log_probs(output, completions).log_probs
    (output.hidden[output.token_mask].pow(2).mean() + log_probs.mean()).backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return output.hidden.detach()[output.attention_mask], log_probs.detach(), gradients


def test_packed_and_separate_sequences_agree(policy: HFPolicy) -> None:
    packed, separate = results(policy, True), results(policy, False)
    policy.shared_prefix = True
    for mine, theirs in zip(packed[:2], separate[:2], strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    assert packed[2].keys() == separate[2].keys()
    for name, gradient in separate[2].items():
        assert (packed[2][name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5, name


def test_gradients_reach_every_part(policy: HFPolicy) -> None:
    found = {name for name, gradient in results(policy, True)[2].items() if gradient.abs().sum() > 0}
    assert {name.split(".")[2] for name in found} >= {name.split(".")[2] for name, _ in policy.named_parameters()}
    without = [name for name, p in policy.named_parameters() if p.requires_grad and name not in found]
    # the keys' biases shift all scores alike, which the softmax takes out again
    assert [name for name in without if not re.search(r"k_proj\.bias|qkv\.bias", name)] == []


def test_what_no_pass_reads_is_not_trained(family: str, policy: HFPolicy) -> None:
    """Distributed training waits for the gradient of every trained parameter."""
    names = (name for name, parameter in policy.named_parameters() if not parameter.requires_grad)
    frozen = {name.removeprefix("lm.model.vision_tower.") for name in names}
    unread = {"llava": ("encoder.layers.1.", "post_layernorm."), "llava_onevision": ("post_layernorm.",)}
    expected = unread.get(family, ())  # LLaVA-1.5 sees through the layer before the last
    assert {next((part for part in expected if name.startswith(part)), name) for name in frozen} == set(expected)


def test_sampling_over_one_cache_is_generation(policy: HFPolicy, prompts: Prompts) -> None:
    expected = policy.generate(prompts, max_new_tokens=10)
    sampled = policy.sample(prompts, num_generations=2, max_new_tokens=10, temperature=0.0)
    for copy in (0, 1):
        assert torch.equal(sampled.ids[copy::2], expected.ids)
    assert len({tuple(row) for row in expected.ids.tolist()}) > 1


def test_placeholders_are_never_written(policy: HFPolicy) -> None:
    one = policy.encode_prompts(IMAGES[:1], QUESTIONS[:1])
    sampled = policy.sample(one, num_generations=150, max_new_tokens=40, temperature=1000.0)
    seen = set(sampled.ids[sampled.mask].tolist())
    names = placeholders(policy.processor)
    assert policy.processor.image_token in names
    assert not seen & set(policy.tokenizer.convert_tokens_to_ids(names))
    assert {policy._end_id, policy.concentration_id} <= seen
    assert max(seen) < len(policy.tokenizer)


def test_typed_placeholders_are_words(policy: HFPolicy) -> None:
    names = placeholders(policy.processor)
    typed = policy.encode_prompts(IMAGES[:1], ["the " + " ".join(names) + " one"])
    plain = policy.encode_prompts(IMAGES[:1], ["the one"])
    for name in names:
        token = policy.tokenizer.convert_tokens_to_ids(name)
        assert (typed.input_ids == token).sum() == (plain.input_ids == token).sum(), name


def test_turns_end_as_the_template_ends_them(family: str, policy: HFPolicy, written: Completions) -> None:
    end = policy.tokenizer.convert_tokens_to_ids(TURN_END[family])
    assert policy._eos_ids == [end]
    assert [row[mask][-1].item() for row, mask in zip(written.ids, written.mask, strict=True)] == [end] * 3


def test_a_saved_policy_keeps_the_tokens_id_and_row(policy: HFPolicy, tmp_path: Path) -> None:
    policy.lm.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    again = HFPolicy(model=str(tmp_path)).eval()
    assert again.concentration_id == policy.concentration_id
    assert len(again.tokenizer) == len(policy.tokenizer)
    for ours, theirs in zip(heads(policy), heads(again), strict=True):
        assert torch.equal(ours, theirs)


def heads(policy: HFPolicy) -> list[Tensor]:
    return [policy.lm.get_input_embeddings().weight, policy.lm.get_output_embeddings().weight]


def test_limits_of_pixels_are_for_processors_that_count_them(family: str, folder: Path) -> None:
    if family.startswith("qwen"):
        limited = HFPolicy(model=str(folder), random_weights=True, max_pixels=64 * 64)
        assert (limited.encode_prompts(IMAGES, QUESTIONS).input_ids == limited._image_id).sum(1).max() <= 4
    else:
        with pytest.raises(ValueError, match=r"max_pixels 4096 would change nothing: \w+ resizes images by a rule"):
            HFPolicy(model=str(folder), random_weights=True, max_pixels=64 * 64)


def test_it_is_built_on_the_meta_device(folder: Path, policy: HFPolicy) -> None:
    with torch.device("meta"):
        empty = HFPolicy(model=str(folder), random_weights=True)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {name: p.shape for name, p in empty.named_parameters()} == {
        name: p.shape for name, p in policy.named_parameters()
    }


class TestLayersThatCannotShare:
    """LLaVA over a Mistral, whose layers see a window of the sequence."""

    @pytest.fixture(scope="class")
    def windowed(self, tmp_path_factory: pytest.TempPathFactory) -> HFPolicy:
        config, processor = FAMILIES["llava"]()
        text = {name: getattr(config.text_config, name) for name in (*TEXT, "vocab_size", "eos_token_id")}
        config.text_config = MistralConfig(**text, sliding_window=40, pad_token_id=processor.tokenizer.pad_token_id)
        folder = tmp_path_factory.mktemp("mistral")
        torch.manual_seed(11)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
        processor.save_pretrained(folder)
        with pytest.warns(UserWarning, match=r"has layers of sliding_attention.*shared_prefix is off"):
            return HFPolicy(model=str(folder)).eval()

    def test_completions_get_sequences_of_their_own(self, windowed: HFPolicy) -> None:
        assert not windowed.shared_prefix
        prompts, group = windowed.encode_prompts(IMAGES, QUESTIONS), group_of(windowed)
        together = run(windowed, prompts, group)
        for row in range(3):
            one = windowed.encode_prompts([IMAGES[row]], [QUESTIONS[row]])
            alone = run(windowed, one, group.part(2 * row, 2 * row + 1))
            expected = alone.hidden[alone.token_mask]
            torch.testing.assert_close(together.hidden[2 * row][together.token_mask[2 * row]], expected, **CLOSE)

    def test_sampling_and_streaming_are_generation(self, windowed: HFPolicy) -> None:
        prompts = windowed.encode_prompts(IMAGES, QUESTIONS)
        expected = windowed.generate(prompts, max_new_tokens=5)
        sampled = windowed.sample(prompts, num_generations=2, max_new_tokens=5, temperature=0.0)
        assert torch.equal(sampled.ids, expected.ids.repeat_interleave(2, 0))
        (whole,) = windowed.stream(windowed.encode_prompts(IMAGES[:1], QUESTIONS[:1]), max_new_tokens=5)
        assert torch.equal(whole.ids, expected.ids[:1])
