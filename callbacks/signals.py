"""Hearing that this process shall end: SIGUSR1 and SIGTERM set a flag, and nothing happens inside a handler.

Saving inside a handler, as Lightning's own requeueing does, runs collectives wherever the main thread happens to be,
and loader workers inherit the handler. This module imports nothing heavy, so that a command can listen from its first
moment.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGUSR1, signal.SIGTERM)


class Signals:
    """Remembers the first of :data:`NUMBERS` that this process gets.

    Attributes:
        heard: that signal, or ``None``.
    """

    def __init__(self) -> None:
        self.heard: signal.Signals | None = None
        self._before: dict[int, Any] = {}
        self._process = 0
        self._listening = False

    def listen(self) -> None:
        """Install the handlers, again where somebody has replaced them; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._process = os.getpid()
        self._listening = True
        for number in NUMBERS:
            before = signal.getsignal(number)
            if before != self._hear:
                signal.signal(number, self._hear)
                self._before.setdefault(number, before)

    def stop(self) -> None:
        """Give back the handlers of before, and forget what was heard."""
        self._listening, self.heard = False, None
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                if before is not None:  # None: installed by C code, which Python cannot put back
                    signal.signal(number, before)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked child: SLURM signals every process of a step
        if not self._listening:  # somebody put this handler back: do what would have happened without it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.heard is None:
            self.heard = signal.Signals(number)


SIGNALS = Signals()
"""Of this process."""
