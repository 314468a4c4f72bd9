"""Policies with random weights, and prompts and completions of exact lengths for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.policies import HFPolicy
from coprs_lightning.prompts import PromptTemplate
from coprs_lightning.structures import Completions, Prompts
from tests.benchmarks.shapes import sizes_of

SHORT = PromptTemplate(system="", user="{question}")
"""Nothing but the question: prompts shorter than the paper's instructions can be measured, too."""


def model_options(parser: argparse.ArgumentParser) -> None:
    """Options of :func:`build_policy` and where it computes."""
    parser.add_argument("--hidden", type=int, default=512, help="width of the language model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repetitions", type=positive, default=5, help="timed runs of each side; the median counts")


def dtype_of(precision: str) -> Any:
    """The name that the policy takes."""
    return {"fp32": "float32", "bf16": "bfloat16"}[precision]


def build_policy(options: argparse.Namespace) -> HFPolicy:
    """A Qwen2.5-VL of the given size with the shipped processor, always with the same random weights."""
    torch.manual_seed(7)
    policy = HFPolicy(
        model="small_qwen2_5_vl",
        random_weights=True,
        config_overrides=sizes_of(options.hidden, options.layers, options.heads, options.kv_heads),
        prompt=SHORT,
        dtype=dtype_of(options.precision),
        min_pixels=28 * 28,
        max_pixels=112 * 112,
        max_prompt_tokens=100_000,
    )
    return policy.to(options.device)


def words(policy: HFPolicy) -> list[str]:
    """Words that are one token each after a space."""
    return sorted(token[1:] for token in policy.tokenizer.get_vocab() if token.startswith("Ġ") and token[1:].isalpha())


def question_for(policy: HFPolicy, image: Tensor, tokens: int, number: int) -> str:
    """Random words that make the prompt with ``image`` exactly ``tokens`` long.

    Args:
        policy: encodes it.
        image: (3, H, W) uint8.
        tokens: P, image tokens included.
        number: another one asks something else.

    Raises:
        ValueError: when image and chat turns alone take more.
    """
    known = words(policy)
    least = policy.encode_prompts([image], [known[0]]).input_ids.shape[1]
    if tokens < least:
        raise ValueError(
            f"a prompt of {tokens} tokens has no room for its image and a question, which take {least}: ask for a "
            "longer prompt or a smaller image."
        )
    generator = torch.Generator().manual_seed(number)
    drawn = torch.randint(len(known), (tokens - least,), generator=generator).tolist()
    return " ".join([known[0], *(known[i] for i in drawn)])


def random_image(side: int, number: int) -> Tensor:
    """(3, side, side) uint8."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)


def prompts_of(policy: HFPolicy, tokens: int, count: int = 1, side: int = 84) -> Prompts:
    """``count`` prompts of exactly ``tokens`` tokens, each with an image."""
    images = [random_image(side, i) for i in range(count)]
    prompts = policy.encode_prompts(images, [question_for(policy, image, tokens, i) for i, image in enumerate(images)])
    assert prompts.input_ids.shape == (count, tokens)
    assert bool(prompts.attention_mask.all())
    return prompts


def completions_of(policy: HFPolicy, tokens: int, count: int) -> Completions:
    """``count`` completions of exactly ``tokens`` random words, the last one the concentration token."""
    known = torch.tensor(policy.tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in words(policy)]))
    generator = torch.Generator().manual_seed(3)
    ids = known[torch.randint(len(known), (count, tokens), generator=generator)]
    ids[:, -1] = policy.concentration_id
    everywhere = torch.ones(count, tokens, dtype=torch.bool)
    completions: Completions = Completions(ids, everywhere, [""] * count, ~everywhere[:, 0]).to(policy.device)
    return completions


def shape(text: str) -> tuple[int, int, int]:
    """``256,64,8`` as P, R, G; the type of an option."""
    try:
        prompt, completion, group = (int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not P,R,G, as in 256,64,8") from None
    return prompt, completion, group


def positive(text: str) -> int:
    """A number of at least 1; the type of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1: nothing would be measured")
    return int(text)


def parameters_of(options: argparse.Namespace, hidden: Sequence[str] = ("shapes", "device")) -> dict[str, Any]:
    """The options as they are told beside the results."""
    return {key: value for key, value in vars(options).items() if key not in hidden}
