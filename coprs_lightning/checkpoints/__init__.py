"""Trained models on disk: Lightning checkpoints, exported folders, and the layout of the paper's released code."""

from coprs_lightning.checkpoints.loading import load_model

__all__ = ["load_model"]
