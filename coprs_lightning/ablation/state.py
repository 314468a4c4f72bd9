"""How far a run is, by the files in its folder: no daemon, no database, and nothing lost by a kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from callbacks.files import write_json
from coprs_lightning.ablation.plan import LOG, RECORD, RESULTS, Run
from coprs_lightning.cli_errors import note
from coprs_lightning.commands import CommandError

STATUS = "status.json"


class State(Enum):
    """How far a run is."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


def read_json(path: Path) -> dict[str, Any]:
    """Content of a file; empty where it is missing or no mapping."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def results_of(run: Run) -> dict[str, Any]:
    """What the run's `coprs fit` reported at its end; empty before, and for another run than this one."""
    if read_json(run.folder / RECORD).get("digest") != run.digest:
        return {}
    content = read_json(run.folder / RESULTS)
    return content if content.get("stage") == "fit" else {}


def state_of(run: Run) -> State:
    """What the files say; a run that was killed may still be called running."""
    if results_of(run):
        return State.FINISHED
    if read_json(run.folder / RECORD).get("digest") != run.digest:
        return State.WAITING
    word = read_json(run.folder / STATUS).get("state")
    return State(word) if word in {state.value for state in State} - {"finished"} else State.WAITING


def prepare(run: Run) -> None:
    """Make the folder ready for a start; results of another command there are set aside, never overwritten."""
    record = read_json(run.folder / RECORD)
    if record and record.get("digest") != run.digest:
        aside = run.folder.with_name(f"{run.folder.name}-until-{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(run.folder, aside)
        note(f"{run.name}: the configs have changed since; the earlier run is kept as {aside}")
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / RECORD, run.record())


def set_status(folder: Path, state: State, **more: Any) -> None:
    """Record a change of state."""
    write_json(folder / STATUS, {"state": state.value, "time": time.time(), **more})


def log_tail(run: Run, lines: int = 15) -> str:
    """The end of a run's log."""
    try:
        text = (run.folder / LOG).read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError:
        return "(no log)"
    # a progress bar's carriage returns hide all but the last of its states
    found = [line.rsplit("\r", 1)[-1] for line in text.split("\n") if line.strip()]
    return "\n".join(found[-lines:]) or "(empty)"


def failure_of(run: Run) -> str:
    """Why a run failed, in a few words."""
    status = read_json(run.folder / STATUS)
    return str(status.get("reason") or f"exit status {status.get('exit_status')}")


@contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Keep a second `coprs ablate` out of the same folder.

    Raises:
        CommandError: when there is one at work.
    """
    import fcntl

    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another `coprs ablate` is at work in {output}: two would train the same cells. Wait for it, or name "
                "another --output."
            ) from None
        except OSError:  # a file system without locks
            note(f"{output} is on a file system without locks: start no second `coprs ablate` there")
        yield
