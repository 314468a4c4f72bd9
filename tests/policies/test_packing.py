"""A prompt shared by its completions gives what separate sequences give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from coprs_lightning.policies import HFPolicy
from coprs_lightning.policies.packing import PADDING, PROMPT, attention_mask, pack, prompt_positions, repeat_prompts
from coprs_lightning.structures import Completions, Prompts
from tests.parts import photos, small_policy

GROUP = 3
LENGTHS = (4, 9, 1, 9, 3, 6)
"""Of the completions; two prompts."""


def prompts_of(policy: HFPolicy) -> Prompts:
    """Two images of different sizes and questions of different lengths: the shorter prompt is padded."""
    return policy.encode_prompts(photos((40, 60), (90, 80)), ["red one", "the biggest of the three on the left side"])


def completions_of(policy: HFPolicy) -> Completions:
    """Random words with a concentration token in every second completion."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(40, 200, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    for row in range(0, len(LENGTHS), 2):
        ids[row, LENGTHS[row] - 1] = policy.concentration_id
    written = Completions(ids, mask, [""] * len(LENGTHS), torch.zeros(len(LENGTHS), dtype=torch.bool))
    return written.to(policy.device)  # type: ignore[no-any-return]


def results(policy: HFPolicy, shared: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Hidden states of real tokens, log-probabilities, and gradients of a loss on both."""
    policy.shared_prefix = shared
    policy.zero_grad()
    completions = completions_of(policy)
    output = policy(prompts_of(policy), completions)
    tokens = policy.log_probs(output, completions, temperature=1.3)
    hidden = output.hidden[output.attention_mask]
    (hidden.pow(2).mean() + tokens.log_probs.sum() / 10).backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return hidden.detach(), tokens.log_probs.detach(), gradients


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_shared_prompts_give_the_states_log_probabilities_and_gradients_of_separate_ones(kernel: str) -> None:
    policy = small_policy(attn_implementation=kernel).train()
    shared, separate = results(policy, True), results(policy, False)
    for mine, theirs in zip(shared[:2], separate[:2], strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()
    assert shared[2].keys() == separate[2].keys()
    for name, gradient in separate[2].items():
        assert (shared[2][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_every_mask_of_the_output_is_that_of_separate_sequences() -> None:
    policy = small_policy()
    completions = completions_of(policy)
    outputs = []
    for shared in (True, False):
        policy.shared_prefix = shared
        outputs.append(policy(prompts_of(policy), completions))
    for name in ("attention_mask", "image_mask", "completion_mask", "token_mask"):
        assert torch.equal(getattr(outputs[0], name), getattr(outputs[1], name)), name
    assert outputs[0].token_mask.any(1).tolist() == [True, False] * 3
    assert outputs[0].hidden.shape == outputs[1].hidden.shape


def test_a_completion_does_not_see_its_neighbours() -> None:
    policy = small_policy()
    prompts, completions = prompts_of(policy), completions_of(policy)
    changed = completions.ids.clone()
    changed[1] = changed[1] + 1  # another completion of the same prompt
    before = policy(prompts, completions).hidden
    after = policy(prompts, replace(completions, ids=changed)).hidden
    same = torch.tensor([0, 2, 3, 4, 5])
    real = torch.cat([prompts.attention_mask.repeat_interleave(GROUP, 0), completions.mask], 1)[same]
    assert torch.equal(before[same][real], after[same][real])
    assert not torch.equal(before[1], after[1])


def test_images_reach_every_completion_of_their_own_prompt_only() -> None:
    policy = small_policy()
    completions = completions_of(policy)
    images = photos((40, 60), (90, 80))
    questions = ["red one", "the biggest"]
    before = policy(policy.encode_prompts(images, questions), completions).hidden[:, -1]
    after = policy(policy.encode_prompts([images[0], 255 - images[1]], questions), completions).hidden[:, -1]
    differs = [(before[row] - after[row]).abs().max().item() > 1e-4 for row in (1, 3)]  # two of full length
    assert differs == [False, True]


def test_the_packed_sequence_has_no_gaps_and_restarts_its_positions() -> None:
    policy = small_policy()
    prompts, completions = prompts_of(policy), completions_of(policy)
    positions, following = prompt_positions(policy.lm, prompts)
    packed = pack(prompts, completions, positions, following, 0)
    start = prompts.input_ids.shape[1]
    assert packed.ids.shape[1] == start + max(sum(LENGTHS[:3]), sum(LENGTHS[3:]))
    assert packed.owner[0, start:].tolist() == [0] * 4 + [1] * 9 + [2] * 1 + [PADDING] * 4
    assert packed.positions.shape[0] == 3
    first = int(following[0])
    steps = packed.positions[1, 0, start : start + 14] - first
    assert steps.tolist() == [*range(4), *range(9), 0]
    for row, length in enumerate(LENGTHS):
        columns = packed.columns[row, :length]
        assert torch.equal(packed.ids[row // GROUP, columns], completions.ids[row, :length])
    assert (packed.owner[:, :start] == PROMPT).equal(prompts.attention_mask)


def test_positions_follow_the_image_as_the_model_counts() -> None:
    policy = small_policy()
    prompts = prompts_of(policy)
    positions, following = prompt_positions(policy.lm, prompts)
    policy.lm.model.rope_deltas = None
    policy.lm(
        input_ids=prompts.input_ids, attention_mask=prompts.attention_mask.long(), **prompts.vision, use_cache=True
    )
    deltas = policy.lm.model.rope_deltas.flatten()
    assert torch.equal(following, prompts.attention_mask.sum(1) + deltas)
    assert following[1] < prompts.attention_mask[1].sum()  # an image counts its longer side only
    assert positions.shape == (3, *prompts.input_ids.shape)


def test_models_with_one_axis_count_real_tokens() -> None:
    prompts = Prompts(torch.zeros(2, 4, dtype=torch.long), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool())
    positions, following = prompt_positions(torch.nn.ModuleDict({"model": torch.nn.Identity()}), prompts)  # type: ignore[arg-type]
    assert positions.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert following.tolist() == [2, 4]


def test_the_mask_for_flex_attention_allows_what_the_plain_one_allows() -> None:
    owner = torch.tensor([[PADDING, PROMPT, PROMPT, 0, 0, 1, 1, PADDING]])
    plain = attention_mask(owner, "sdpa", torch.float32)[0, 0]
    block = attention_mask(owner, "flex_attention", torch.float32)
    index = torch.arange(8)
    zero = torch.tensor(0)
    found = torch.stack([torch.stack([block.mask_mod(zero, zero, q, k) for k in index]) for q in index])
    assert torch.equal(found, plain)
    assert plain[5].tolist() == [False, True, True, False, False, True, False, False]
    additive = attention_mask(owner, "eager", torch.float32)[0, 0]
    assert torch.equal(additive == 0, plain)


@pytest.mark.slow  # half a minute of compilation
def test_flex_attention_gives_the_states_of_sdpa() -> None:
    """Forward only: on a CPU it has no backward pass."""
    plain, flex = small_policy(), small_policy(attn_implementation="flex_attention")
    with torch.no_grad():
        expected, found = (policy(prompts_of(policy), completions_of(policy)) for policy in (plain, flex))
    real = expected.attention_mask
    assert (found.hidden[real] - expected.hidden[real]).norm() <= 1e-5 * expected.hidden[real].norm()
    assert flex.sample(prompts_of(flex), num_generations=2, max_new_tokens=2).ids.shape == (4, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention has no backward pass on a CPU")
def test_flex_attention_gives_the_gradients_of_sdpa() -> None:
    found, expected = (
        results(small_policy(attn_implementation=kernel).cuda().train(), True) for kernel in ("flex_attention", "sdpa")
    )
    for name, gradient in expected[2].items():
        assert (found[2][name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name


def test_other_kernels_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"flash_attention_2.*takes no mask.*shared_prefix: false"):
        attention_mask(torch.tensor([[PROMPT, 0]]), "flash_attention_2", torch.float32)


def test_images_that_cannot_be_told_apart_are_not_repeated() -> None:
    prompts = Prompts(torch.zeros(2, 3).long(), torch.ones(2, 3).bool(), {"pixel_values": torch.zeros(5, 4)})
    with pytest.raises(ValueError, match=r"pixel_values of shape \(5, 4\) for 2 prompts"):
        repeat_prompts(prompts, 2)


def test_repeated_prompts_keep_their_own_patches() -> None:
    policy = small_policy()
    prompts = prompts_of(policy)
    repeated = repeat_prompts(prompts, 2)
    patches = prompts.vision["pixel_values"].split(prompts.vision["image_grid_thw"].prod(1).tolist())
    expected = torch.cat([patches[0], patches[0], patches[1], patches[1]])
    assert torch.equal(repeated.vision["pixel_values"], expected)
    assert torch.equal(repeated.input_ids[1], prompts.input_ids[0])


def test_a_number_of_completions_that_does_not_fit_is_refused() -> None:
    policy = small_policy()
    with pytest.raises(ValueError, match="5 completions for 2 prompts"):
        policy(prompts_of(policy), completions_of(policy).part(0, 5))
