"""Reinforcement learning: rollouts, rewards, advantages, token weights and reference policies."""
