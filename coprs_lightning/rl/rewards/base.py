"""Base class of the rewards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from coprs_lightning.spec import Recorded


@dataclass(frozen=True)
class RewardInputs:
    """What a reward may look at: N = B·G completions, the G of a prompt beside each other.

    Attributes:
        questions: N questions.
        texts: N completions as text, special tokens kept except padding and end of sequence.
        truncated: (N,) bool, the length limit came before the end of the sequence.
        present: (N,) bool, the completion has a concentration token, so that there is a mask.
        masks: (N, H, W) float32 probabilities of the predicted mask, the union where there are several; all 0 where
            ``present`` is ``False`` or nothing fits.
        heatmaps: (N, H', W') float32 probabilities of the heatmap, likewise.
        targets: (N, S, S) float32 in [0, 1], the ground truth in frame geometry (padding is background).
        valid_sizes: (N, 2) int64, height and width in pixels of the part of each frame that is image.
        num_tokens: K, concentration tokens that a completion is asked to have.
    """

    questions: list[str]
    texts: list[str]
    truncated: Tensor
    present: Tensor
    masks: Tensor
    heatmaps: Tensor
    targets: Tensor
    valid_sizes: Tensor
    num_tokens: int = 1

    def __len__(self) -> int:
        return len(self.texts)


class Reward(Recorded, ABC):
    """Scores completions.

    A reward of your own is a subclass with ``__call__``; name it in the config by class path:
    ``reward: {class_path: my_package.rewards.BrevityReward}``.
    """

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Least and greatest score; a score outside is an error."""

    @abstractmethod
    def __call__(self, inputs: RewardInputs) -> Tensor:
        """(N,) float32 scores on the device of ``inputs.masks``, without gradients."""

    def parts(self, inputs: RewardInputs) -> dict[str, Tensor]:
        """Scores to log beside the total by name, (N,) each; none by default."""
        return {}


def checked_scores(reward: Reward, inputs: RewardInputs) -> Tensor:
    """Scores of a reward, refused where they would spoil training silently.

    Raises:
        ValueError: for another shape than (N,), a value that is not finite, or one outside the reward's range.
    """
    scores = reward(inputs).detach().float()
    name = type(reward).__name__
    if scores.shape != (len(inputs),):
        raise ValueError(
            f"{name} gave scores of shape {tuple(scores.shape)} for {len(inputs)} completions: advantages need one "
            f"score a completion, shape ({len(inputs)},)."
        )
    low, high = reward.range
    wrong = ~(scores.isfinite() & (scores >= low - 1e-4) & (scores <= high + 1e-4))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} gave {scores[index].item()} for the completion {inputs.texts[index][:80]!r}, outside its range "
            f"[{low}, {high}]: one such score would spoil the advantages of its group. Correct the reward or its range."
        )
    return scores
