"""Sub-commands beside `fit | validate | test | predict`: one module each, imported only when it runs.

A command module has ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int`` (the exit status). It
imports nothing heavy at the top, so that ``coprs --help`` stays quick. ``CommandError`` is what a user sees as one
clear message. A package in here is a group of commands (``coprs data …``).
"""

from __future__ import annotations


class CommandError(Exception):
    """A mistake of the user's or of the input's: printed as ``coprs: error: …`` without a traceback, exit status 1."""

    exit_status = 1


class UsageError(CommandError):
    """The command line or a config cannot be understood: nothing was run. Exit status 2."""

    exit_status = 2
