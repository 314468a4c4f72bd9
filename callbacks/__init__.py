"""Callbacks: metrics, panels, provenance – one callback a file."""
