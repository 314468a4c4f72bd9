"""Handlers that only set a flag."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from callbacks.signals import Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    signals = Signals()
    yield signals
    signals.stop()


def test_the_first_signal_is_remembered(signals: Signals) -> None:
    signals.listen()
    assert signals.heard is None
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert signals.heard is signal.SIGUSR1


def test_handlers_are_given_back(signals: Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signals.listen()
    signals.listen()
    assert signal.getsignal(signal.SIGTERM) != before
    signals.stop()
    assert signal.getsignal(signal.SIGTERM) == before
    assert signals.heard is None


def test_a_forked_child_does_not_hear_for_its_parent(signals: Signals) -> None:
    signals.listen()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(1 if signals.heard else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_ignored_signal_is_heard_all_the_same(signals: Signals) -> None:
    """A launcher may have ignored it for its own sake, and children inherit that."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        signals.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.heard is signal.SIGUSR1
        signals.stop()
    finally:
        signal.signal(signal.SIGUSR1, before)
