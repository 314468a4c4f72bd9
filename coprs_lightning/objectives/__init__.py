"""Objectives: how the parts are trained."""

from coprs_lightning.objectives.base import Objective, ObjectiveOutput
from coprs_lightning.objectives.supervised import SupervisedObjective

__all__ = ["Objective", "ObjectiveOutput", "SupervisedObjective"]
