"""Synthetic scenes of coloured shapes with questions, written thoughts and exact masks: training without a download."""

from datamodules.synthetic.samples import SPLITS, SyntheticScenes
from datamodules.synthetic.sought import Sought, parse_thought, thought_is_right
from datamodules.synthetic.wordings import vocabulary, words

__all__ = ["SPLITS", "Sought", "SyntheticScenes", "parse_thought", "thought_is_right", "vocabulary", "words"]
