"""Options of a job: those of the command line above those of a file for the cluster."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coprs_lightning.cli_configs import find_config, load_yaml
from coprs_lightning.cli_schema import suggest
from coprs_lightning.commands import UsageError
from coprs_lightning.slurm.times import minutes

_PLAIN = re.compile(r"[\w.,:=@%+/&|\[\]()*-]+")
_NAME = re.compile(r"[\w.-]+")
_NOT_NAMES = ("bash", "interactive")  # Lightning takes such a job for a terminal, not for a run
_COUNTS = ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "signal_seconds")


@dataclass(frozen=True)
class JobOptions:
    """What a job asks of SLURM; ``None`` leaves it to the cluster, or to the Trainer's options.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: GPUs on each.
        tasks_per_node: processes on each; as many as GPUs where it is not given.
        cpus_per_task: cores of a process.
        mem: memory of a node, ``480G``.
        time: limit, as SLURM writes it.
        partition: queue.
        account: whom to charge.
        qos: quality of service.
        constraint: features that a node must have.
        exclude: nodes to avoid.
        reservation: reservation to run in.
        job_name: name; that of the config where it is not given.
        container: image in which the run runs (Pyxis' ``--container-image``).
        container_mounts: folders to see in it.
        setup: lines of shell before the run.
        output: folder of scripts, logs and runs.
        signal_seconds: how long before the time limit the run is asked to save.
        template: another script to fill in.
    """

    nodes: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    job_name: str | None = None
    container: str | None = None
    container_mounts: str | None = None
    setup: list[str] = field(default_factory=list)
    output: str = "runs/slurm"
    signal_seconds: int = 120
    template: str | None = None


NAMES = [option.name for option in dataclasses.fields(JobOptions)]


def read_options(given: dict[str, Any], cluster: str | None) -> JobOptions:
    """Options from the command line above those of ``--cluster``.

    Args:
        given: by name; ``None`` where the command line does not give it.
        cluster: YAML file, or ``None``.

    Raises:
        UsageError: for an unknown name or a value that SLURM could not take.
    """
    found = _of_cluster(cluster) if cluster else {}
    found |= {name: value for name, value in given.items() if value is not None and value != []}
    job = JobOptions(**{name: _checked(name, value) for name, value in found.items() if value is not None})
    output = str(Path(job.output).absolute())
    if "%" in output or _PLAIN.fullmatch(output) is None:
        raise UsageError(
            f"--output {job.output!r}: SLURM cannot write its log to {output}: spaces, quotes or '%' are in the path. "
            "Give another folder."
        )
    return job


def _of_cluster(cluster: str) -> dict[str, Any]:
    path = Path(find_config(cluster))
    found = load_yaml(path)
    for name in found:
        if name not in NAMES:
            raise UsageError(f"{cluster}: {name!r} is no option of a job.{suggest(str(name), NAMES, 'Options')}")
    if isinstance(found.get("template"), str):  # beside the file, like whatever else a file names
        found["template"] = str(path.parent / found["template"])
    return found


def _checked(name: str, value: Any) -> Any:
    option = "--" + name.replace("_", "-")
    if name == "setup":
        lines = [value] if isinstance(value, str) else value
        if not isinstance(lines, list) or not all(isinstance(line, str) and "\n" not in line for line in lines):
            raise UsageError(f"{option} takes lines of shell, got {value!r}. Give it once a line.")
        return lines
    if name in _COUNTS:
        least = 0 if name == "gpus_per_node" else 1
        if re.fullmatch("[0-9]+", str(value)) is None or int(value) < least:
            raise UsageError(f"{option} must be a whole number of at least {least}, got {value!r}.")
        return int(value)
    if isinstance(value, int | float) and name == "time":  # YAML reads 1:30:00 as 5400 (base 60)
        raise UsageError(f"{option} {value!r} must be in quotes in the file, as '12:00:00'.")
    text = str(value)
    if name in ("container", "container_mounts", "template", "output"):
        if "\n" in text or not text:
            raise UsageError(f"{option} {text!r}: must be one line.")
        return text
    if name == "time":
        minutes(text, option)
    if name == "job_name" and (_NAME.fullmatch(text) is None or text in _NOT_NAMES):
        raise UsageError(
            f"{option} {text!r}: takes letters, digits, '.', '_' and '-', and neither of {', '.join(_NOT_NAMES)}."
        )
    if _PLAIN.fullmatch(text) is None:
        raise UsageError(f"{option} {text!r}: cannot stand in a #SBATCH line (spaces, quotes or line ends).")
    return text
