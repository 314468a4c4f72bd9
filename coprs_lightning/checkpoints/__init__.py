"""Trained models on disk: Lightning checkpoints, exported folders, and the layout of the paper's released code."""

from coprs_lightning.checkpoints.folder import read_folder
from coprs_lightning.checkpoints.loading import exported_folder, load_model
from coprs_lightning.checkpoints.run_folder import find_checkpoint

__all__ = ["exported_folder", "find_checkpoint", "load_model", "read_folder"]
