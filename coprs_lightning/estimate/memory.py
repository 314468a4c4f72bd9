"""Formulas of the memory that a training step needs, in bytes on one device.

They count what grows with model and batch; the context of a GPU, the allocator's fragments and workspaces of kernels
come on top (:data:`RESERVE`). Shape legend: P prompt tokens, R completion tokens, G completions a prompt, T tokens of a
packed sequence (P + G·R).
"""

from __future__ import annotations

from dataclasses import dataclass

from coprs_lightning.estimate.sizes import Sizes, Transformer

GIB = 2**30
RESERVE = 0.1
"""Share of a device's memory that is better left free."""

WIDTHS, KEY_WIDTHS, MLP_WIDTHS = 14, 3, 4
"""What the backward pass of a layer keeps of every token: hidden widths (residual stream, norms, queries before and
after rotation, expanded keys and values, attention output), key–value widths, MLP widths (gate, its activation, up,
product). Counted from transformers' Llama and Qwen layers over sdpa; measured within 10 % (tests/estimate)."""

DECODER_WIDTHS = 23
"""The same for every cell and query in a two-layer SAM decoder with its upscaling, measured."""

HEAD_MAPS = 64
"""Maps of the size of the grid that a heatmap head keeps a query, enlargement by four included."""


WEIGHTS, GRADIENTS, OPTIMIZER, REFERENCE = "weights", "gradients", "optimizer", "reference policy"
FEATURES, SEGMENTATION, CASTS = "backbone's features", "heatmap head and decoder", "casts of weights"
ACTIVATIONS, LOGITS, CACHE = "activations", "logits of a chunk", "rollout's cache, beyond the above"
VISITING = "offloaded reference, beyond the above"
BUCKETS, GATHERED = "gradient buckets", "gathered weights in a pass"
EVALUATED = "gathered policy in decoding, beyond the above"

FORMULAS = {
    WEIGHTS: "parameters × bytes of their type; quantised ones as they are stored",
    GRADIENTS: "trained parameters × bytes of their type",
    OPTIMIZER: "2 × gradients: both moments of Adam",
    REFERENCE: "weights of the policy",
    FEATURES: "prompts × channels × cells × bytes",
    SEGMENTATION: f"completions of a pass × cells × ({HEAD_MAPS} + {DECODER_WIDTHS} × decoder's width) × bytes",
    CASTS: "float32 weights × 2 under mixed precision: the policy's, and trained ones of other parts",
    ACTIVATIONS: (
        f"layers × tokens × ({WIDTHS} × width + {KEY_WIDTHS} × key width + {MLP_WIDTHS} × MLP width) × bytes + mask; "
        "with gradient checkpointing layers × tokens × width × bytes + one layer + mask; language and vision"
    ),
    LOGITS: "3 × min(log_prob_chunk, completion tokens) × vocabulary × 4: logits, softmax, gradient",
    CACHE: "2 × layers × prompts × (P + G × R) × key width × bytes, less activations, logits, head and decoder",
    VISITING: "weights of the policy, less gradients (and, in micro-batches, what a pass keeps), which come later",
    BUCKETS: "gradients: DDP's second copy",
    GATHERED: (
        "2 × (embeddings, projection and the like + 2 layers) × bytes they compute in: weights and gradients, and "
        "4 bytes × the larger of the two, in which gradients are added"
    ),
    EVALUATED: (
        "policy × bytes it computes in, for rollouts and validation (+ the rollout's cache), less gradients and what a "
        "pass holds, which are not there then"
    ),
}
"""What an item of :func:`estimate` is computed from, in words; tokens are prompts × (P + G × R) of a pass with
``shared_prefix``, else completions × (P + R). Full shard divides the policy's first four by the devices."""


@dataclass(frozen=True)
class Load:
    """What a device works on in one step.

    Attributes:
        prompts: questions a device.
        group: G; 1 without sampling.
        prompt_tokens: P, image tokens included.
        completion_tokens: R.
        micro_batch: completions of a pass with gradients; ``None`` takes all at once.
        shared_prefix: a prompt is computed once for its group.
        logits_chunk: tokens whose logits are in memory at a time.
        reference_copy: a frozen copy of the policy lies on the device.
        reference_offloaded: it lies in CPU memory, and on the device only while it computes.
        samples: completions are sampled (a cache of keys and values is needed).
        frozen_weight_bytes: bytes of a policy's weight where it is quantised; ``None`` as they are.
    """

    prompts: int
    group: int
    prompt_tokens: int
    completion_tokens: int
    micro_batch: int | None = None
    shared_prefix: bool = True
    logits_chunk: int = 2048
    reference_copy: bool = False
    reference_offloaded: bool = False
    samples: bool = False
    frozen_weight_bytes: float | None = None

    @property
    def completions(self) -> int:
        """Completions of one pass with gradients."""
        every = self.prompts * self.group
        return every if self.micro_batch is None else min(every, self.micro_batch)

    def pass_tokens(self) -> tuple[int, int]:
        """Tokens of one pass with gradients, and the longest sequence in it."""
        together = self.shared_prefix and self.group > 1
        rows = -(-self.completions // self.group) if together else self.completions
        members = min(self.group, self.completions) if together else 1
        longest = self.prompt_tokens + members * self.completion_tokens
        return rows * longest, longest


def layer_bytes(sizes: Transformer, tokens: int) -> int:
    """What the backward pass of one layer keeps."""
    widths = WIDTHS * sizes.width + KEY_WIDTHS * sizes.kv_width + MLP_WIDTHS * sizes.mlp
    return tokens * widths * sizes.value_bytes


def activation_bytes(sizes: Transformer, tokens: int, longest: int, checkpointing: bool) -> int:
    """What the backward pass of a stack of layers keeps; with checkpointing the layers' inputs and one whole layer.

    Args:
        sizes: of the stack.
        tokens: of a pass.
        longest: sequence, whose mask is a matrix.
        checkpointing: activations are recomputed.
    """
    if not sizes.trained:
        return 0
    mask = longest * longest * sizes.value_bytes
    inputs = sizes.layers * tokens * sizes.width * sizes.value_bytes
    if checkpointing:
        return mask + inputs + layer_bytes(sizes, tokens)
    return mask + sizes.layers * layer_bytes(sizes, tokens)


def cache_bytes(sizes: Transformer, load: Load) -> int:
    """Keys and values of a rollout over one cache: prompt once, G completions."""
    tokens = load.prompts * (load.prompt_tokens + load.group * load.completion_tokens)
    return 2 * sizes.layers * tokens * sizes.kv_width * sizes.value_bytes


def logits_bytes(sizes: Transformer, load: Load) -> int:
    """Logits of a chunk in full precision, their softmax and their gradient."""
    tokens = min(load.logits_chunk, load.completions * load.completion_tokens)
    return 3 * tokens * sizes.vocabulary * 4


def feature_bytes(sizes: Sizes, load: Load) -> int:
    """Features of the frames: kept for all passes, and outside the graph where the backbone is frozen."""
    return load.prompts * sizes.channels * sizes.cells * sizes.segmentation_bytes


def segmentation_bytes(sizes: Sizes, load: Load) -> int:
    """What heatmap head and decoder keep of every completion of a pass."""
    widths = HEAD_MAPS + DECODER_WIDTHS * sizes.decoder_width
    return load.completions * sizes.cells * widths * sizes.segmentation_bytes


def state_bytes(sizes: Sizes, load: Load) -> dict[str, int]:
    """Weights, gradients and the two moments of Adam, which have the weights' type; a frozen copy of the policy."""
    weights = sum(part.bytes for part in sizes.parts)
    if load.frozen_weight_bytes is not None:
        policy = sizes.policy
        frozen = policy.total - policy.trainable
        weights += int(frozen * load.frozen_weight_bytes) - (policy.bytes - policy.trainable_bytes)
    trained = sum(part.trainable_bytes for part in sizes.parts)
    found = {WEIGHTS: weights, GRADIENTS: trained, OPTIMIZER: 2 * trained}
    if load.reference_copy:
        found[REFERENCE] = sizes.policy.bytes
    return found


def pass_bytes(sizes: Sizes, load: Load, checkpointing: bool) -> int:
    """What the backward pass of language model and vision tower keeps."""
    if sizes.language is None:
        return 0
    found = activation_bytes(sizes.language, *load.pass_tokens(), checkpointing)
    if sizes.vision is not None:
        images = min(load.prompts, -(-load.completions // load.group))
        found += activation_bytes(sizes.vision, images * sizes.image_tokens, 0, checkpointing)
    return found


def working_bytes(sizes: Sizes, load: Load) -> dict[str, int]:
    """What comes and goes in a step. A rollout's cache is gone when the backward pass needs its activations."""
    found = {FEATURES: feature_bytes(sizes, load), SEGMENTATION: segmentation_bytes(sizes, load)}
    if sizes.cast_bytes:
        found[CASTS] = sizes.cast_bytes
    if sizes.language is None:
        return found
    found[ACTIVATIONS] = pass_bytes(sizes, load, sizes.checkpointing)
    found[LOGITS] = logits_bytes(sizes.language, load)
    if load.samples:
        later = found[ACTIVATIONS] + found[LOGITS] + found[SEGMENTATION]
        found[CACHE] = max(0, cache_bytes(sizes.language, load) - later)
    return found


def visiting_bytes(sizes: Sizes, load: Load, working: dict[str, int]) -> int:
    """An offloaded reference while it scores a rollout, beyond what the backward pass needs later.

    Gradients do not exist yet then. What a pass keeps does where the whole rollout is one pass: that pass is scored.
    """
    later = sum(part.trainable_bytes for part in sizes.parts)
    if load.completions < load.prompts * load.group:
        later += sum(working.get(name, 0) for name in (SEGMENTATION, ACTIVATIONS, LOGITS))
    return max(0, sizes.policy.bytes - later)


def estimate(sizes: Sizes, load: Load, devices: int) -> dict[str, dict[str, int]]:
    """Bytes on one device by strategy and by what they are for.

    Args:
        sizes: of the model.
        load: of one device.
        devices: over which ``full shard`` (FSDP, ZeRO-3) divides the policy.

    Returns:
        for every strategy its items; DDP keeps a second copy of the gradients in its buckets; full shard is
        :class:`~coprs_lightning.strategies.fsdp2.FSDP2Strategy` (the idea: Rajbhandari et al. 2020, section 5).
    """
    state, working = state_bytes(sizes, load), working_bytes(sizes, load)
    if load.reference_offloaded:
        working[VISITING] = visiting_bytes(sizes, load, working)
    found = {"one device": {**state, **working}}
    if devices > 1:
        found[f"DDP × {devices}"] = {**state, BUCKETS: state[GRADIENTS], **working}
        found[f"full shard × {devices}"] = _full_shard(sizes, load, devices, state, working)
    return found


def _full_shard(
    sizes: Sizes, load: Load, devices: int, state: dict[str, int], working: dict[str, int]
) -> dict[str, int]:
    """What :func:`estimate` tells of full shard."""
    policy = sizes.policy
    others = sum(part.bytes for part in sizes.parts) - policy.bytes
    divided = {WEIGHTS: state[WEIGHTS] - others, GRADIENTS: policy.trainable_bytes}
    divided |= {OPTIMIZER: 2 * policy.trainable_bytes, REFERENCE: policy.bytes}
    found = {name: value - divided[name] * (devices - 1) // devices for name, value in state.items()}
    found[GATHERED] = gathered_bytes(sizes)
    found |= {name: value for name, value in working.items() if name not in (CACHE, CASTS)}
    if sizes.cast_bytes > sizes.policy_cast_bytes:
        found[CASTS] = sizes.cast_bytes - sizes.policy_cast_bytes  # gathered weights are in half precision already
    if sizes.language is not None:
        later = (GATHERED, GRADIENTS, ACTIVATIONS, LOGITS, SEGMENTATION)
        whole = policy.total * _compute_bytes(sizes) + (cache_bytes(sizes.language, load) if load.samples else 0)
        found[EVALUATED] = max(0, whole - sum(found.get(name, 0) for name in later))
    return found


def gathered_bytes(sizes: Sizes) -> int:
    """What a pass through a divided policy gathers, and what its gradients take until they are divided."""
    groups = sizes.outside_layers + 2 * sizes.largest_layer
    gathered = groups * _compute_bytes(sizes)
    if not sizes.policy.trainable:
        return gathered
    share = sizes.policy.trainable / sizes.policy.total
    added = 4 * max(sizes.outside_layers, sizes.largest_layer)
    return gathered + int(share * (gathered + added))


def _compute_bytes(sizes: Sizes) -> int:
    """Of a gathered weight."""
    return sizes.language.value_bytes if sizes.language else -(-sizes.policy.bytes // max(1, sizes.policy.total))
