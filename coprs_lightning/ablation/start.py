"""Becomes another program that ends when its parent does: ``python start.py PARENT COMMAND …``.

A killed `coprs ablate` cannot end its cells; without this they would train on, and the next call would start the same
cells beside them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGTERM at the parent's death (Linux; elsewhere nothing), and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            raise SystemExit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
