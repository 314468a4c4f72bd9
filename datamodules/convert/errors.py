"""What can be wrong with a source: all of it, or one item of it."""

from __future__ import annotations


class BadSourceError(Exception):
    """A dataset that cannot be converted as it is; the text says what was expected, what was found and what to do."""


class BadItemError(Exception):
    """One image or target that cannot be converted, while the others can.

    Attributes:
        reason: the kind of problem in a few words, under which summaries count it.
        detail: which item, and what is wrong with it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both, for errors travel out of worker processes as their arguments
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
