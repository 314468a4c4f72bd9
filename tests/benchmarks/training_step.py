"""A whole step of joint training: rollout, scoring, backward pass, optimizer.

    python -m tests.benchmarks.training_step --shape small --steps 1
    python -m tests.benchmarks.training_step --shape qwen2_5_vl_3b --device cuda --steps 5

Weights are random, of the chosen size; image features have the shape of SAM ViT-H's and are given with the batch, so
its encoder takes no part (unless ``--encode`` wants it); heatmap head and decoder have the paper's sizes. The prompt is
shared by its completions or not, in the update (``shared_prefix``) and in the rollout (one prefill, or ``generate``):
four combinations, which take turns after one step each that is not timed. Random weights never write the concentration
token, so it is put at the end of every completion: otherwise nothing would be segmented.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from coprs_lightning.aggregators import LastTokenAggregator
from coprs_lightning.backbones import CachedBackbone, ImageBackbone, SamBackbone
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.estimate import Load, estimate
from coprs_lightning.estimate import measure as sizes_in
from coprs_lightning.heatmap_heads import CrossAttentionHead
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives import GRPOObjective, TrainingStep
from coprs_lightning.policies import HFPolicy, Policy
from coprs_lightning.policies.lora import LoraOptions
from coprs_lightning.rl.references import AdaptersOffReference, FrozenCopyReference
from coprs_lightning.rl.rollouts import GenerateRollout, RolloutEngine, TransformersRollout
from coprs_lightning.structures import Completions, Example, Prompts, SegmentationBatch
from datamodules.collate import FrameCollator
from tests.benchmarks.inputs import SHORT, dtype_of, parameters_of, positive, question_for, random_image
from tests.benchmarks.measure import (
    MIB,
    alternate,
    machine,
    median_seconds,
    memory_method,
    peak_bytes,
    report,
    seconds_of,
)
from tests.benchmarks.shapes import SHAPES, WholeVocabularyPolicy

CHANNELS, STRIDE = 256, 16
"""Of SAM's image encoder."""

ENGINES: dict[str, type[RolloutEngine]] = {"one-prefill": TransformersRollout, "generate": GenerateRollout}

COLUMNS = {
    "forward": ("forward", ""),
    "rollout": ("rollout", ""),
    "seconds": ("s a step", ".3f"),
    "rollout_seconds": ("of them rollout", ".3f"),
    "rollout_rate": ("rollout tokens/s", ".0f"),
    "held_mib": ("held MiB", ".0f"),
    "peak_mib": ("step's peak above it, MiB", ".0f"),
}


class TimedRollout(RolloutEngine):
    """Another engine's rollouts, timed, with the concentration token at each one's end.

    Attributes:
        seconds: of the last rollout.
        tokens: written in it.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        super().__init__(max_new_tokens=engine.max_new_tokens, temperature=engine.temperature, top_p=engine.top_p)
        self.engine = engine
        self.seconds = 0.0
        self.tokens = 0

    def sample(self, policy: Policy, prompts: Prompts, num_generations: int) -> Completions:
        """See :meth:`RolloutEngine.sample`."""
        found: tuple[float, Completions] = seconds_of(
            lambda: self.engine.sample(policy, prompts, num_generations), prompts.input_ids.device
        )
        self.seconds, written = found
        self.tokens = int(written.mask.sum())
        last = written.mask.sum(1, keepdim=True) - 1
        return replace(written, ids=written.ids.scatter(1, last, policy.concentration_id))


def build_model(options: argparse.Namespace) -> tuple[CoprsModel, HFPolicy]:
    """The model and its policy, built on their device: 7B weights are never in two places."""
    shape = SHAPES[options.shape]
    torch.manual_seed(7)
    with torch.device(options.device):
        policy = WholeVocabularyPolicy(
            model="small_qwen2_5_vl",
            random_weights=True,
            config_overrides=shape.overrides,
            prompt=SHORT,
            dtype=dtype_of(options.precision),
            gradient_checkpointing=options.gradient_checkpointing,
            min_pixels=28 * 28,
            max_pixels=options.image_side**2,
            max_prompt_tokens=options.prompt_tokens,
            log_prob_chunk=options.log_prob_chunk,
            lora=LoraOptions() if options.lora else None,
        )
        side = STRIDE * options.feature_grid
        backbone: ImageBackbone = CachedBackbone(out_channels=CHANNELS, stride=STRIDE, image_size=side, frozen=True)
        if options.encode:
            backbone = SamBackbone(config=shape.encoder, image_size=side, frozen=True)
        model = CoprsModel(
            policy=policy,
            backbone=backbone,
            aggregator=LastTokenAggregator(hidden_size=policy.hidden_size),
            heatmap_head=CrossAttentionHead(query_dim=policy.hidden_size, in_channels=CHANNELS, upscale=4),
            decoder=SamMaskDecoder(in_channels=CHANNELS),
        )
    return model.to(options.device).train(), policy


def build_batch(model: CoprsModel, policy: HFPolicy, options: argparse.Namespace) -> SegmentationBatch:
    """Random images and features, a question of the asked length each, and a rectangle as mask."""
    examples = []
    for number in range(options.batch_size):
        image = random_image(options.image_side, number)
        mask = np.zeros((options.image_side, options.image_side), dtype=bool)
        mask[: options.image_side // 2, : options.image_side // 3] = True
        question = question_for(policy, image, options.prompt_tokens, number)
        rng = np.random.default_rng(number)
        features = rng.standard_normal((CHANNELS, options.feature_grid, options.feature_grid), dtype=np.float32)
        given = None if options.encode else features.astype(np.float16)
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        examples.append(Example(str(number), pixels, question, mask, features=given))
    batch: SegmentationBatch = FrameCollator(model.image_size)(examples).to(options.device)
    return batch


class Way:
    """One of the combinations, as a step that can be run again and again.

    Args:
        model: the parts.
        batch: what every step trains on.
        objective: with a :class:`TimedRollout`.
        optimizer: one for all ways, so that its state is in memory once.
        shared: share the prompt in the update.
    """

    def __init__(
        self,
        model: CoprsModel,
        batch: SegmentationBatch,
        objective: GRPOObjective,
        optimizer: torch.optim.Optimizer,
        shared: bool,
    ) -> None:
        self.model = model
        self.batch = batch
        self.objective = objective
        self.optimizer = optimizer
        self.shared = shared

    def __call__(self) -> tuple[float, int]:
        """Run a step.

        Returns:
            seconds of its rollout, and tokens written in it.
        """
        policy, rollout = self.model.policy, self.objective.rollout
        assert isinstance(policy, HFPolicy)
        assert isinstance(rollout, TimedRollout)
        policy.shared_prefix = self.shared
        torch.manual_seed(0)
        step = TrainingStep(number=0, accumulate=lambda loss: loss.backward())
        self.objective(self.model, self.batch, step).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return rollout.seconds, rollout.tokens


def build_ways(
    model: CoprsModel, batch: SegmentationBatch, options: argparse.Namespace
) -> dict[tuple[str, str], Callable[[], Any]]:
    """The asked combinations, by forward and rollout."""
    reference = AdaptersOffReference() if options.lora else FrozenCopyReference(offload=options.offload_reference)
    reference.prepare(model.policy)
    groups = [group for name, part in model.components().items() for group in part.parameter_groups(2e-6, name)]
    optimizer = torch.optim.AdamW(groups)
    ways: dict[tuple[str, str], Callable[[], Any]] = {}
    for forward, engine in itertools.product(options.forward, options.rollout):
        objective = GRPOObjective(
            num_generations=options.num_generations,
            rollout=TimedRollout(ENGINES[engine](max_new_tokens=options.completion_tokens)),
            reference=reference,
            micro_batch_size=options.micro_batch_size,
        )
        ways[forward, engine] = Way(model, batch, objective, optimizer, forward == "shared")
    return ways


def measure(
    ways: Mapping[tuple[str, str], Callable[[], Any]], steps: int, device: torch.device
) -> list[dict[str, Any]]:
    """The rows of the table; the model is trained on."""
    for way in ways.values():
        way()
    rows = []
    for names, runs in alternate(ways, steps, device).items():
        held, peak = peak_bytes(ways[names], device)
        rows.append(
            {
                "forward": names[0],
                "rollout": names[1],
                "seconds": median_seconds(runs),
                "rollout_seconds": statistics.median(seconds for _, (seconds, _) in runs),
                "rollout_rate": statistics.median(tokens / seconds for _, (seconds, tokens) in runs),
                "held_mib": held / MIB,
                "peak_mib": peak / MIB,
            }
        )
    return rows


def estimated(model: CoprsModel, options: argparse.Namespace) -> dict[str, float]:
    """MiB by what they are for, as ``coprs estimate`` has them for the first of the asked forwards."""
    load = Load(
        prompts=options.batch_size,
        group=options.num_generations,
        prompt_tokens=options.prompt_tokens,
        completion_tokens=options.completion_tokens,
        micro_batch=options.micro_batch_size,
        shared_prefix=options.forward[0] == "shared",
        logits_chunk=options.log_prob_chunk,
        reference_copy=not (options.lora or options.offload_reference),
        samples=True,
    )
    return {name: value / MIB for name, value in estimate(sizes_in(model), load, 1)["one device"].items()}


def held_before(options: argparse.Namespace) -> int:
    """Bytes held before anything is built, with all libraries that a step needs."""
    device = torch.device(options.device)
    if device.type == "cpu":  # the process is measured, and some libraries are imported late
        tiny = {"shape": "tiny", **{name: getattr(SHAPES["tiny"], name) for name in ("image_side", "feature_grid")}}
        small = argparse.Namespace(**{**vars(options), **tiny, "prompt_tokens": 32, "completion_tokens": 2})
        model, policy = build_model(small)
        for way in build_ways(model, build_batch(model, policy, small), small).values():
            way()
        del model, policy, way
    return peak_bytes(lambda: None, device)[0]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, those of the shape filled in where none is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--steps", type=positive, default=3, help="timed steps of each combination; the median counts")
    flag: Any = argparse.BooleanOptionalAction
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="of the policy's weights; adapters are float32")
    parser.add_argument("--lora", action=flag, help="train adapters (the reference is the policy without them)")
    parser.add_argument("--gradient-checkpointing", action=flag)
    parser.add_argument("--prompt-tokens", type=int, help="P, image tokens included")
    parser.add_argument("--completion-tokens", type=int, help="R, the longest completion")
    parser.add_argument("--num-generations", type=int, help="G, completions a prompt")
    parser.add_argument("--batch-size", type=int, help="prompts a step")
    parser.add_argument("--image-side", type=int, help="pixels of the square image; an image token is 28 × 28")
    parser.add_argument("--micro-batch-size", type=int, help="completions that go through the model at a time")
    parser.add_argument("--feature-grid", type=int, help="cells along a side of the image features")
    parser.add_argument("--encode", action="store_true", help="a frozen image encoder computes the features")
    parser.add_argument("--offload-reference", action="store_true", help="keep the reference's copy in CPU memory")
    parser.add_argument("--log-prob-chunk", type=positive, default=2048, help="tokens whose logits are kept at a time")
    parser.add_argument("--forward", choices=["shared", "separate"], nargs="+", default=["shared", "separate"])
    parser.add_argument("--rollout", choices=list(ENGINES), nargs="+", default=list(ENGINES))
    options = parser.parse_args(argv)
    shape = SHAPES[options.shape]
    for name, value in vars(shape).items():
        option = "gradient_checkpointing" if name == "checkpointing" else name
        if getattr(options, option, value) is None:
            setattr(options, option, value)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = arguments(argv)
    device = torch.device(options.device)
    baseline = held_before(options)
    model, policy = build_model(options)
    batch = build_batch(model, policy, options)
    rows = measure(build_ways(model, batch, options), options.steps, device)
    seconds = {(row["forward"], row["rollout"]): row["seconds"] for row in rows}
    fast, slow = (seconds.get(key) for key in (("shared", "one-prefill"), ("separate", "generate")))
    result = {
        "benchmark": "training_step",
        "machine": machine(device),
        "parameters": {
            **parameters_of(options, hidden=("device", "forward", "rollout")),
            "policy_parameters": sum(p.numel() for p in policy.parameters()),
            "memory": memory_method(device),
        },
        "speedup_of": "shared and one-prefill against separate and generate",
        "speedup": slow / fast if fast and slow else None,
        "held_before_mib": baseline / MIB,
        "estimate_mib": estimated(model, options),
    }
    report(result, rows, COLUMNS)


if __name__ == "__main__":
    main()
