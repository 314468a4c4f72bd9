"""Joint training: GRPO on sampled chains of thought + segmentation losses, in one backward pass (paper section 3).

A rollout of G completions a prompt is rewarded; rewards become group-relative advantages; the loss is the clipped
policy loss, a KL term that keeps the policy near its start, and the segmentation loss on all G completions, which
reaches the policy through the concentration token's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.component import check_positive
from coprs_lightning.losses.matching import DEFAULT_MATCHING, MatchingOptions
from coprs_lightning.losses.policy_gradient import clipped_policy_loss, k3_kl
from coprs_lightning.losses.segmentation import PAPER_WEIGHTS, SegmentationWeights
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives.base import Objective, ObjectiveOutput, TrainingStep
from coprs_lightning.objectives.grpo_logs import rollout_logs, token_logs
from coprs_lightning.objectives.grpo_rollout import (
    Pass,
    Piece,
    Rollout,
    Scores,
    Seen,
    cut_into_pieces,
    make_record,
    reward_inputs,
)
from coprs_lightning.objectives.segmentation import SegmentationSchedule, segmentation_rows
from coprs_lightning.policies import Policy
from coprs_lightning.rl.advantages import AdvantageEstimator, GroupRelativeAdvantages
from coprs_lightning.rl.references import AdaptersOffReference, FrozenCopyReference, ReferencePolicy
from coprs_lightning.rl.rewards import Reward, WeightedSumReward, checked_scores
from coprs_lightning.rl.rollouts import RolloutEngine, TransformersRollout
from coprs_lightning.rl.weights import GroupTokenMean, TokenWeights
from coprs_lightning.structures import SegmentationBatch


class GRPOObjective(Objective):
    """Reinforcement and segmentation together; the defaults are the paper's, or its scripts' where it is silent.

    Args:
        num_generations: G, completions a prompt.
        rollout: samples the completions; ``null`` is :class:`~coprs_lightning.rl.rollouts.TransformersRollout`.
        reward: scores them; ``null`` is the paper's 0.7 · mask + 0.3 · format.
        advantages: rewards → advantages; ``null`` is group-relative (GRPO).
        token_weights: how tokens count; ``null`` is the mean over the tokens of a group.
        reference: what the KL term keeps near to; ``null`` takes the adapters off where the policy has untrained ones
            (no second copy in memory), else keeps a frozen copy.
        epsilon: clip of the ratio below 1.
        epsilon_high: clip above 1; ``null`` is ``epsilon``.
        beta: weight of the KL term; 0 needs no reference.
        entropy_weight: weight of an entropy bonus.
        policy_weight: weight of policy loss, KL and entropy together; 0 trains segmentation only.
        segmentation_weight: weight of the segmentation loss (the paper's λ_SEG); 0 trains by reinforcement only.
        segmentation: coefficients of the segmentation loss.
        later_segmentation: coefficients from ``switch_step`` on; ``null`` keeps the first set.
        switch_step: optimizer step at which the coefficients switch; -1 for never.
        ignore_padding: leave the padding out of the segmentation loss (the paper counts it as background).
        matching: how objects are assigned to concentration tokens, where there are several.
        updates_per_batch: optimizer steps on each rollout; from the second on the ratio differs from 1.
        micro_batch_size: completions that go through the model at a time; ``null`` takes all. The result is the same
            where no trained part has batch statistics.
        kwargs: ``fallback_thought`` (teacher-forced validation only) and what
            :class:`~coprs_lightning.component.Component` takes.

    Raises:
        ValueError: for options out of range, or a group too small for the advantages.
    """

    def __init__(
        self,
        *,
        num_generations: int = 8,
        rollout: RolloutEngine | None = None,
        reward: Reward | None = None,
        advantages: AdvantageEstimator | None = None,
        token_weights: TokenWeights | None = None,
        reference: ReferencePolicy | None = None,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        beta: float = 0.2,
        entropy_weight: float = 0.0,
        policy_weight: float = 1.0,
        segmentation_weight: float = 0.3,
        segmentation: SegmentationWeights = PAPER_WEIGHTS,
        later_segmentation: SegmentationWeights | None = None,
        switch_step: int = -1,
        ignore_padding: bool = False,
        matching: MatchingOptions = DEFAULT_MATCHING,
        updates_per_batch: int = 1,
        micro_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(self, num_generations=num_generations, updates_per_batch=updates_per_batch)
        if micro_batch_size is not None:
            check_positive(self, micro_batch_size=micro_batch_size)
        self.rollout = rollout or TransformersRollout()
        self.reward = reward or WeightedSumReward()
        self.advantages = advantages or GroupRelativeAdvantages()
        self.token_weights = token_weights or GroupTokenMean()
        self.reference = reference
        self.num_generations = num_generations
        self.epsilon = epsilon
        self.epsilon_high = epsilon if epsilon_high is None else epsilon_high
        _check_range(epsilon, self.epsilon_high, beta)
        self.beta = beta
        self.entropy_weight = entropy_weight
        self.policy_weight = policy_weight
        self.segmentation_weight = segmentation_weight
        self.schedule = SegmentationSchedule(segmentation, later_segmentation, switch_step)
        self.ignore_padding = ignore_padding
        self.matching = matching
        self.updates_per_batch = updates_per_batch
        self.micro_batch_size = micro_batch_size
        least = self.advantages.least_group_size
        if num_generations < least:
            raise ValueError(
                f"objective.num_generations is {num_generations}, but {type(self.advantages).__name__} compares the "
                f"completions of a prompt and needs at least {least}."
            )
        self._current: Rollout | None = None

    @property
    def samples(self) -> bool:
        """See :attr:`Objective.samples`."""
        return True

    # -- around training ---------------------------------------------------------------------------------------------

    def prepare(self, model: CoprsModel) -> None:
        """Keep the policy as it is now as the reference, where a KL term needs one."""
        if self.beta == 0:
            return
        if self.reference is None:
            adapters = model.policy.adapters
            keeps_start = adapters is not None and adapters.neutral()
            self.reference = AdaptersOffReference() if keeps_start else FrozenCopyReference()
        self.reference.prepare(model.policy)

    def shard(self, divide: Callable[[Policy], None]) -> None:
        """See :meth:`Objective.shard`: the reference policy."""
        if self.beta != 0 and self.reference is not None:
            self.reference.shard(divide)

    def checkpoint_state(self) -> dict[str, Any]:
        """See :meth:`Objective.checkpoint_state`: what identifies the reference policy."""
        return {} if self.beta == 0 or self.reference is None else self.reference.state()

    def check_checkpoint_state(self, state: dict[str, Any]) -> None:
        """See :meth:`Objective.check_checkpoint_state`."""
        if state and self.beta != 0 and self.reference is not None:
            self.reference.check_state(state)

    # -- one step ----------------------------------------------------------------------------------------------------

    def forward(self, model: CoprsModel, batch: SegmentationBatch, step: TrainingStep) -> ObjectiveOutput:
        """See :meth:`Objective.forward`: samples on the first update of a batch, and learns from it on each."""
        if step.update == 0:
            self._current = self._sample(model, batch)
        rollout = self._current
        if rollout is None:
            raise RuntimeError(f"update {step.update} of a batch that was never sampled: begin with update 0.")
        together = len(rollout.pieces) == 1 and self.updates_per_batch == 1
        # one pass can be both learned from and scored
        shared = self._run(model, rollout.pieces[0]) if together else None
        if shared is not None:
            rollout.scores = self._score(model, rollout, Seen.of(shared))
        elif rollout.scores is None:
            with torch.no_grad():
                seen = [Seen.of(self._run(model, piece)) for piece in rollout.pieces]
            rollout.scores = self._score(model, rollout, Seen.joined(seen))
        logs = rollout_logs(rollout.completions, rollout.scores)
        for number, piece in enumerate(rollout.pieces):
            loss, found = self._loss(model, rollout, piece, shared or self._run(model, piece), step)
            for key, value in found.items():
                if key.endswith("_max"):
                    logs[key] = torch.maximum(logs.get(key, value), value)
                else:
                    logs[key] = logs.get(key, 0.0) + value
            if number + 1 < len(rollout.pieces):
                step.accumulate(loss)
        if step.update + 1 == self.updates_per_batch:
            self._current = None
        return ObjectiveOutput(loss, logs, rollout.scores.record)

    def _sample(self, model: CoprsModel, batch: SegmentationBatch) -> Rollout:
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        completions = self.rollout.sample(model.policy, prompts, self.num_generations)
        mask = completions.mask.view(len(batch), self.num_generations, -1)
        weights = self.token_weights(mask).flatten(0, 1)
        pieces = cut_into_pieces(model, batch, prompts, completions, self.micro_batch_size)
        return Rollout(batch, completions, pieces, weights, model.aggregator.num_tokens)

    def _run(self, model: CoprsModel, piece: Piece) -> Pass:
        output = model(piece.batch, piece.prompts, piece.completions, piece.features)
        tokens = model.policy.log_probs(
            output.policy,
            piece.completions,
            temperature=self.rollout.temperature,
            entropy_gradient=self.entropy_weight != 0,
        )
        return Pass(output, tokens)

    @torch.no_grad()
    def _score(self, model: CoprsModel, rollout: Rollout, seen: Seen) -> Scores:
        shape = (len(rollout.batch), self.num_generations)
        inputs = reward_inputs(rollout, seen)
        rewards = checked_scores(self.reward, inputs).view(shape)
        parts = {name: value.float().view(shape) for name, value in self.reward.parts(inputs).items()}
        advantages = self.advantages(rewards)
        return Scores(
            rewards=rewards,
            parts=parts,
            advantages=advantages.flatten(),
            old_log_probs=seen.log_probs,
            ref_log_probs=self._reference_log_probs(model, rollout),
            record=make_record(rollout, seen, rewards, parts, advantages),
        )

    def _reference_log_probs(self, model: CoprsModel, rollout: Rollout) -> Tensor | None:
        if self.beta == 0:
            return None
        if self.reference is None:
            raise RuntimeError("objective.beta is not 0 and there is no reference yet: call prepare(model) first.")
        found = []
        with self.reference.use(model.policy) as reference:
            for piece in rollout.pieces:
                output = reference(piece.prompts, piece.completions)
                tokens = reference.log_probs(output, piece.completions, temperature=self.rollout.temperature)
                found.append(tokens.log_probs)
        return torch.cat(found)

    def _loss(
        self, model: CoprsModel, rollout: Rollout, piece: Piece, current: Pass, step: TrainingStep
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A piece's part of the loss, and its part of what is logged."""
        scores, tokens = rollout.scores, current.tokens
        assert scores is not None  # forward() filled it in
        weights, mask = rollout.weights[piece.rows], piece.completions.mask
        # with one update the policy that sampled is the one that learns: the ratio is exactly 1
        old = tokens.log_probs.detach() if self.updates_per_batch == 1 else scores.old_log_probs[piece.rows]
        losses, clipped = clipped_policy_loss(
            tokens.log_probs, old, scores.advantages[piece.rows], self.epsilon, self.epsilon_high
        )
        policy = (weights * losses).sum()
        entropy = (weights * tokens.entropy).sum()
        reinforcement = policy - self.entropy_weight * entropy
        logs = {"loss/policy": policy, "loss/entropy": entropy}
        kl = torch.zeros_like(losses)
        if scores.ref_log_probs is not None:
            kl = k3_kl(tokens.log_probs, scores.ref_log_probs[piece.rows])
            logs["loss/kl"] = (weights * kl).sum()
            reinforcement = reinforcement + self.beta * logs["loss/kl"]
        # over all completions: one without a token has no heatmap that could be wrong, and counts 0
        segmentation, parts = segmentation_rows(
            current.output,
            piece.batch,
            self.schedule.at(step.number),
            model.image_size,
            self.ignore_padding,
            self.matching,
        )
        share = 1 / len(rollout.completions.ids)
        logs["loss/segmentation"] = segmentation.sum() * share
        logs.update({key: value.sum() * share for key, value in parts.items()})
        loss = self.policy_weight * reinforcement + self.segmentation_weight * logs["loss/segmentation"]
        logs["loss"] = loss
        with torch.no_grad():
            logs.update(token_logs(tokens, old, kl, clipped, mask, rollout.completions.mask.sum()))
        return loss, {key: value.detach() for key, value in logs.items()}


def _check_range(epsilon: float, epsilon_high: float, beta: float) -> None:
    if not 0 < epsilon < 1 or epsilon_high <= 0:
        raise ValueError(
            f"objective.epsilon is {epsilon} and objective.epsilon_high {epsilon_high}: the ratio is clipped to "
            "[1 - epsilon, 1 + epsilon_high], so epsilon must lie in (0, 1) and epsilon_high above 0."
        )
    if beta < 0:
        raise ValueError(f"objective.beta must be ≥ 0, got {beta}: it would drive the policy away from its start.")
