"""Reasoning segmentation with a differentiable positional prior (CoPRS, arXiv 2510.11173) on PyTorch Lightning."""

__version__ = "0.1.0"
