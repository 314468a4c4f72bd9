"""Objectives: how the parts are trained."""

from coprs_lightning.objectives.base import Objective, ObjectiveOutput, TrainingStep
from coprs_lightning.objectives.grpo import GRPOObjective
from coprs_lightning.objectives.supervised import SupervisedObjective

__all__ = ["GRPOObjective", "Objective", "ObjectiveOutput", "SupervisedObjective", "TrainingStep"]
