"""The synthetic dataset: image and questions as a pure function of seed, split and index."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np

from datamodules.records import ImageRecord, Target
from datamodules.rle import encode_mask
from datamodules.synthetic.draw import draw
from datamodules.synthetic.questions import DEFAULT_SHARES, KINDS, REINFORCE_SHARES, Question, ask
from datamodules.synthetic.scene import SHAPE_COUNTS, Scene, random_scene
from datamodules.synthetic.several import SEVERAL_KINDS, SEVERAL_SHARES, ask_several

REINFORCE_SPLITS = ("reinforce", "reinforce_val")
SEVERAL_SPLITS = ("several", "several_val")
SPLITS = ("train", "val", "test", "generalisation", *REINFORCE_SPLITS, *SEVERAL_SPLITS)
_SCENES_PER_DRAW = 40


class SyntheticScenes:
    """Coloured shapes with questions whose answer follows from the words and from what is seen.

    ``train``, ``val`` and ``test`` are drawn alike; ``generalisation`` asks only for shapes whose pair of colour and
    form (:data:`datamodules.synthetic.words.HELD_OUT`) occurs in no other split; :data:`REINFORCE_SPLITS` ask by
    unfamiliar facts (:mod:`datamodules.synthetic.facts`) and their records hold no thoughts; :data:`SEVERAL_SPLITS` ask
    for one shape, several or none (:mod:`datamodules.synthetic.several`).

    Args:
        seed: seed of the whole dataset.
        split: one of :data:`SPLITS`.
        image_size: longer side of the images in pixels.
        questions_per_image: number of targets a record holds, one question each.
        shares: share of each kind of question, scaled to sum 1; a kind that is left out is not asked. ``None`` for
            the split's default mix. Kind ``unfamiliar`` is for :data:`REINFORCE_SPLITS` only, and
            :data:`SEVERAL_SPLITS` have kinds of their own.
        non_square: share of images with sides 4:3 or 3:4.
    """

    def __init__(
        self,
        seed: int,
        split: str,
        image_size: int = 128,
        questions_per_image: int = 4,
        shares: Mapping[str, float] | None = None,
        non_square: float = 0.3,
    ) -> None:
        self.reinforce = split in REINFORCE_SPLITS
        self.several = split in SEVERAL_SPLITS
        default = REINFORCE_SHARES if self.reinforce else SEVERAL_SHARES if self.several else DEFAULT_SHARES
        self.shares = dict(default if shares is None else shares)
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
        if image_size < 64:
            raise ValueError(f"image_size must be ≥ 64 pixels, got {image_size}: smaller shapes cannot be told apart.")
        if questions_per_image < 1:
            raise ValueError(f"questions_per_image must be ≥ 1, got {questions_per_image}.")
        kinds = SEVERAL_KINDS if self.several else KINDS
        if unknown := sorted(set(self.shares) - set(kinds)):
            raise ValueError(
                f"shares names {unknown[0]!r}, which is no kind of question of split {split!r}; kinds are "
                f"{', '.join(kinds)}."
            )
        if any(share < 0 for share in self.shares.values()) or not sum(self.shares.values()) > 0:
            raise ValueError(f"shares must be ≥ 0 and not all 0, got {self.shares}.")
        if not self.reinforce and self.shares.get("unfamiliar", 0) > 0:
            raise ValueError(
                f"shares gives kind 'unfamiliar' {self.shares['unfamiliar']:g} in split {split!r}, whose written "
                f"thoughts would explain these facts: leave the kind to the splits {' and '.join(REINFORCE_SPLITS)}."
            )
        self.seed = seed
        self.split = split
        self.image_size = image_size
        self.questions_per_image = questions_per_image
        self.non_square = non_square

    def compose(self, index: int) -> tuple[Scene, list[Question]]:
        """The symbolic scene of a sample and its questions."""
        rng = Random(f"{self.seed}/{self.split}/{index}")
        generalisation = self.split == "generalisation"
        while True:
            kinds = rng.choices(list(self.shares), weights=list(self.shares.values()), k=self.questions_per_image)
            number = rng.choices(list(SHAPE_COUNTS), weights=list(SHAPE_COUNTS.values()))[0]
            for _ in range(_SCENES_PER_DRAW):
                scene = random_scene(
                    rng,
                    number=number,
                    image_size=self.image_size,
                    non_square=self.non_square,
                    generalisation=generalisation,
                )
                if scene is None:
                    continue
                questions: list[Question] = []
                for kind in kinds:
                    if self.several:
                        question = ask_several(kind, scene, rng, avoid=questions)
                    else:
                        question = ask(kind, scene, rng, generalisation=generalisation, avoid=questions)
                    if question is None:
                        break
                    questions.append(question)
                else:
                    return scene, questions

    def sample(self, index: int) -> tuple[np.ndarray, ImageRecord]:
        """Image (H, W, 3) uint8 RGB and its record; a target has one question, its kind and its thought, if any."""
        scene, questions = self.compose(index)
        image, masks = draw(scene)
        key = f"{self.split}-{index:06d}"
        targets = [
            Target(
                target_id=str(number),
                expressions=[question.text],
                masks=[encode_mask(masks[target]) for target in question.targets],
                reasoning=None if self.reinforce else question.thought,
                kind=question.kind,
                distractors=len(scene.shapes) - len(question.targets),
            )
            for number, question in enumerate(questions)
        ]
        return image, ImageRecord(key, key, f"{key}.png", scene.height, scene.width, targets)
