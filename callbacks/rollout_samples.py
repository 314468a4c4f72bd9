"""The completions of a rollout one by one: their scores, their place in the group, and how they are written down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from callbacks.text_layout import printable
from coprs_lightning.structures import RolloutRecord

_MARKDOWN = str.maketrans({character: f"&#{ord(character)};" for character in "&<>|*_`~\\[]"})


@dataclass(frozen=True)
class Sample:
    """One completion.

    Attributes:
        prompt: index of its prompt in the batch.
        index: its index in the group of that prompt.
        key: key of the example.
        question: what was asked.
        completion: what was written.
        truncated: the length limit came before the end.
        well_formed: the completion format is kept.
        present: there is a concentration token.
        length: tokens.
        rewards: parts of the reward by name.
        reward: the total.
        advantage: what its tokens are reinforced by.
        rank: 1 + how many completions of the group have a higher total; ties share a rank, NaN is below everything.
    """

    prompt: int
    index: int
    key: str
    question: str
    completion: str
    truncated: bool
    well_formed: bool
    present: bool
    length: int
    rewards: dict[str, float]
    reward: float
    advantage: float
    rank: int

    def line(self, step: int) -> dict[str, Any]:
        """What is written down of it."""
        return {
            "step": step,
            "key": self.key,
            "question": self.question,
            "completion": self.completion,
            "rank": self.rank,
            "reward": self.reward,
            "rewards": self.rewards,
            "advantage": self.advantage,
            "length": self.length,
            "truncated": self.truncated,
            "well_formed": self.well_formed,
            "has_token": self.present,
        }

    def notes(self) -> list[tuple[str, str]]:
        """Labelled lines for below its picture."""
        parts = ", ".join(f"{name} {value:.3f}" for name, value in self.rewards.items()) or "no parts"
        remarks = [f"{self.length} token{'' if self.length == 1 else 's'}"]
        if self.truncated:
            remarks.append("cut off by the length limit")
        if not self.present:
            remarks.append("no concentration token, so no heatmap and no mask")
        return [
            ("Reward", f"total {self.reward:.3f} | {parts} | advantage {self.advantage:+.3f}"),
            ("Length", ", ".join(remarks)),
        ]


def groups(record: RolloutRecord, prompts: int) -> list[list[Sample]]:
    """The completions of the first ``prompts`` prompts, one list a prompt, in the order they were sampled."""
    count, size = min(prompts, len(record.batch)), record.rewards.shape[1]
    rewards: list[list[float]] = record.rewards[:count].float().tolist()
    parts = {name: values[:count].float().tolist() for name, values in record.reward_parts.items()}
    advantages = record.advantages[:count].float().tolist()
    truncated, well_formed = record.truncated[:count].tolist(), record.well_formed[:count].tolist()
    present, lengths = record.present[:count].tolist(), record.lengths[:count].tolist()
    return [
        [
            Sample(
                prompt=b,
                index=g,
                key=record.batch.keys[b],
                question=record.batch.questions[b],
                completion=record.texts[b * size + g],
                truncated=truncated[b][g],
                well_formed=well_formed[b][g],
                present=present[b][g],
                length=lengths[b][g],
                rewards={name: values[b][g] for name, values in parts.items()},
                reward=rewards[b][g],
                advantage=advantages[b][g],
                rank=1 + sum(_height(other) > _height(rewards[b][g]) for other in rewards[b]),
            )
            for g in range(size)
        ]
        for b in range(count)
    ]


def extremes(group: list[Sample]) -> list[tuple[str, Sample]]:
    """The best and the worst completion of a group, each with a heading; among equals the first and the last one."""
    size = len(group)
    if size == 1:
        return [("the only completion", group[0])]
    best = min(group, key=lambda sample: (sample.rank, sample.index))
    worst = max(group, key=lambda sample: (sample.rank, sample.index))
    if best.rank == worst.rank:
        return [(f"{place} of {size} with the same reward", s) for place, s in (("first", best), ("last", worst))]
    return [(f"best of {size}", best), (f"worst of {size}", worst)]


def table(samples: list[Sample]) -> str:
    """A Markdown table of completions; no character of a text is taken for markup."""
    parts = list(samples[0].rewards)
    names = ["key", "question", "rank", "reward", *map(_cell, parts), "advantage", "length", "remarks", "completion"]
    rows = [names, ["---"] * len(names)]
    for sample in samples:
        remarks = [
            word
            for word, true in (
                ("truncated", sample.truncated),
                ("malformed", not sample.well_formed),
                ("no token", not sample.present),
            )
            if true
        ]
        numbers = [f"{value:.3f}" for value in (sample.reward, *(sample.rewards[name] for name in parts))]
        texts = [_cell(sample.key), _cell(sample.question), str(sample.rank), *numbers, f"{sample.advantage:+.3f}"]
        rows.append([*texts, str(sample.length), ", ".join(remarks), _cell(sample.completion)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _height(reward: float) -> float:
    return -math.inf if math.isnan(reward) else reward


def _cell(text: str) -> str:
    return printable(text).translate(_MARKDOWN)
