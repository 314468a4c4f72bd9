"""`coprs submit`: a run of `coprs fit` as a SLURM job that survives preemption and time limits."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.cli_errors import note
from coprs_lightning.commands import UsageError

if TYPE_CHECKING:
    from coprs_lightning.cli_check import Checker
    from coprs_lightning.slurm.options import JobOptions
    from coprs_lightning.slurm.shape import Shape
    from coprs_lightning.slurm.submission import Submitted

HELP = "train as a SLURM job; other options are those of `coprs fit`"
PASSES_ON = True
"""Words that are not its own go to the job's `coprs fit`."""

_OWN = {
    "--resume": "the job goes on from its own checkpoints by itself",
    "--trainer.default_root_dir": "each job has a folder of its own in --output",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.usage = "coprs submit --config FILE [--config …] --nodes N --gpus-per-node M [--time …] [--OPTION VALUE …]"
    what = parser.add_argument_group("what")
    what.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="as in `coprs fit`")
    what.add_argument("--dry-run", action="store_true", help="print the script; write and queue nothing")
    what.add_argument("--output", metavar="DIR", help="folder of scripts, logs and runs; default runs/slurm")
    what.add_argument("--job-name", metavar="NAME", help="default: the first config's")
    job = parser.add_argument_group("the job; what is not given, --cluster, the Trainer or SLURM decides")
    job.add_argument("--cluster", metavar="FILE", help="YAML of these options, once for a cluster")
    job.add_argument("--nodes", metavar="N")
    job.add_argument("--gpus-per-node", metavar="N")
    job.add_argument("--tasks-per-node", metavar="N", help="processes; as many as GPUs where it is not given")
    job.add_argument("--cpus-per-task", metavar="N", help="cores of a process: loader workers + 2")
    job.add_argument("--mem", metavar="SIZE", help="memory of a node: 480G")
    job.add_argument("--time", metavar="LIMIT", help="12:00:00; the run is requeued when it is over, and goes on")
    for name, text in {
        "partition": "queue",
        "account": "whom to charge",
        "qos": "quality of service",
        "constraint": "features that a node must have",
        "exclude": "nodes to avoid",
        "reservation": "reservation to run in",
    }.items():
        job.add_argument(f"--{name}", metavar=name.upper(), help=text)
    job.add_argument("--container", metavar="IMAGE", help="image that the run runs in; its `coprs` is used (Pyxis)")
    job.add_argument("--container-mounts", metavar="FROM:TO,…")
    job.add_argument("--setup", action="append", metavar="LINE", help="shell before the run: 'module load cuda'")
    job.add_argument("--signal-seconds", metavar="N", help="save so long before the time limit; default 120")
    job.add_argument("--template", metavar="FILE", help="another script than configs/slurm/fit.sbatch to fill in")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        UsageError: for what cannot be understood, or does not fit together; nothing was queued then.
        CommandError: without SLURM, or where it refuses the job.
    """
    from coprs_lightning.cli_configs import resolve_names
    from coprs_lightning.slurm.options import NAMES, read_options
    from coprs_lightning.slurm.script import sbatch_script
    from coprs_lightning.slurm.submission import check_slurm, submit

    if not args.config:
        raise UsageError("--config is missing: name what to train, such as --config coprs.yaml.")
    job = read_options({name: getattr(args, name) for name in NAMES}, args.cluster)
    words = _words(args)
    if not args.dry_run:
        check_slurm()
    found = resolve_names(words)
    shape = _shape(job, found)
    name = job.job_name or _name(args.config[0])
    script = sbatch_script(job, shape, name, _for_job(words, found, job.container))
    _check_times(job)
    if job.container and not job.container_mounts:
        needed = f"{Path.cwd()}, {Path(job.output).absolute()} and the data"
        note(f"without --container-mounts the image itself must show {needed}")
    if "SLURM_JOB_ID" in os.environ:
        note(f"this is inside job {os.environ['SLURM_JOB_ID']}, whose SLURM_… variables the new job inherits")
    if args.dry_run:
        print(script, end="")
        return 0
    _tell(submit(script, Path(job.output).absolute(), name), shape)
    return 0


def _words(args: argparse.Namespace) -> list[str]:
    """Options of the job's `coprs fit`, as they were given."""
    from coprs_lightning.cli_configs import options

    for option in options(args.words):
        if not option.name.startswith("-"):
            raise UsageError(f"{option.name!r} belongs to no option. Options for the run are those of `coprs fit`.")
        for own, reason in _OWN.items():
            if option.name == own:
                raise UsageError(f"{own} cannot be given to `coprs submit`: {reason}.")
    return [*(word for config in args.config for word in ("--config", config)), *args.words]


def _for_job(words: list[str], found: list[str], container: str | None) -> list[str]:
    """The options with whole paths of configs; a container has the shipped ones elsewhere, and finds them by name.

    Args:
        words: as they were given.
        found: the same with the paths of shipped configs.
        container: image that the job runs in.
    """
    from coprs_lightning.cli_configs import CONFIG_OPTIONS, Option, is_config_name, options, shipped_configs

    wanted: list[str] = []
    for given, option in zip(options(words), options(found), strict=True):
        value = option.value
        if value is not None and (option.name in CONFIG_OPTIONS or is_config_name(value)):
            shipped = value != given.value
            path = Path(value)
            value = str(path.relative_to(shipped_configs()) if shipped and container else path.absolute())
        wanted += Option(option.name, value, option.joined).words()
    return wanted


def _shape(job: JobOptions, words: list[str]) -> Shape:
    """The layout, once `coprs fit`'s first look at the options finds nothing wrong; weights are not asked for."""
    from coprs_lightning.cli_configs import check_order
    from coprs_lightning.cli_lightning import given
    from coprs_lightning.slurm.shape import match

    check_order(words)
    settings = given(words)
    problem = settings.problem()
    if problem is not None:
        raise UsageError(f"{problem}\nNothing was queued.")
    shape = match(job, *(_value(settings, f"trainer.{name}") for name in ("num_nodes", "devices", "accelerator")))
    root = settings.value("trainer.default_root_dir")
    if root is not None:
        note(f"trainer.default_root_dir {root} of the config is not used: {_OWN['--trainer.default_root_dir']}")
    shared = settings.value("callbacks.checkpoint.init_args.dirpath")
    if shared is not None:
        raise UsageError(
            f"callbacks.checkpoint.init_args.dirpath is {shared}: all jobs would save there, and go on "
            "from each other's checkpoints. Leave it out: each job saves in its own folder. Nothing was queued."
        )
    for option in ("data.init_args.train", "data.init_args.val"):
        path = settings.value(option)
        if isinstance(path, str) and "://" not in path and not Path(path).exists():
            note(f"--{option} {path} is not there; the job fails unless its nodes see it")
    return shape


def _value(settings: Checker, option: str) -> Any:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return settings.value(option)
    except OmegaConfBaseException as error:
        raise UsageError(
            f"{option} refers to what is not known before the run begins ({str(error).splitlines()[0]}), but the job's "
            f"layout follows from it. Write the value itself, or add --{option} VALUE. Nothing was queued."
        ) from error


def _check_times(job: JobOptions) -> None:
    from coprs_lightning.slurm.times import minutes

    if job.time is not None and 60 * minutes(job.time, "--time") <= job.signal_seconds:
        raise UsageError(
            f"--time {job.time} leaves no time before --signal-seconds {job.signal_seconds}: the run would be asked to "
            "save as it starts. Give more time, or fewer seconds."
        )


def _name(config: str) -> str:
    import re

    stem = re.sub(r"[^\w.-]", "-", Path(config).stem)
    return stem if stem.startswith("coprs") else f"coprs-{stem}"


def _tell(job: Submitted, shape: Shape) -> None:
    lines: dict[str, Any] = {
        "submitted": f"job {job.number}: {shape.nodes} node(s) × {shape.tasks} process(es)",
        "script": job.script,
        "run": job.run,
        "watch": f"tail -F {job.log}",
        "stop": f"scancel {job.number}",
        "save and requeue": f"scancel --signal=USR1 {job.number}",
    }
    for label, value in lines.items():
        print(f"{label + ':':18}{value}")
