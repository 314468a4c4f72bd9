"""Synthetic scenes of coloured shapes with questions, written thoughts and exact masks: training without a download.

A sample is an image with a few shapes and a few questions about them; image, questions, thoughts and masks are a pure
function of seed, split and index. A thought follows from the words of its question (and from everyday knowledge), never
from what would have to be seen, and ends in the attributes to look for.

Splits: ``train``, ``val`` and ``test`` are drawn alike from different random streams. No image of theirs shows one of
the five (colour, form) pairs in :data:`datamodules.synthetic.words.HELD_OUT`, as a target or beside it, although each
of these colours and forms occurs in other pairs. In ``generalisation`` every target has a held-out pair, and its
question names both the colour and the form (in words or through a fact); only questions of exclusion and relation may
leave them out. All words, facts and kinds of question occur in ``train``, so the split tests new combinations only.

``reinforce`` and ``reinforce_val`` are for learning from reward: scenes like those of ``train``, questions without
written thoughts, most of them by unfamiliar facts (:mod:`datamodules.synthetic.facts`) that no written thought names.

``several`` and ``several_val`` ask for one shape, several or none (:mod:`datamodules.synthetic.several`).
"""

from datamodules.synthetic.samples import REINFORCE_SPLITS, SEVERAL_SPLITS, SPLITS, SyntheticScenes
from datamodules.synthetic.sought import Sought, parse_thought, thought_is_right
from datamodules.synthetic.wordings import vocabulary, words

__all__ = [
    "REINFORCE_SPLITS",
    "SEVERAL_SPLITS",
    "SPLITS",
    "Sought",
    "SyntheticScenes",
    "parse_thought",
    "thought_is_right",
    "vocabulary",
    "words",
]
