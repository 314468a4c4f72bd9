"""Evaluating a trained model on whole splits: every example once, both units, numbers that come out the same again.

:mod:`.plan` says what is evaluated, :mod:`.running` does it, :mod:`.scores` makes numbers of it, and :mod:`.tables`,
:mod:`.panels` and :mod:`.sweep` write them down. Nothing here is read by training.
"""
