"""The sbatch script of a run, filled into a template."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from coprs_lightning.cli_configs import shipped_configs
from coprs_lightning.commands import UsageError
from coprs_lightning.slurm.options import JobOptions
from coprs_lightning.slurm.shape import Shape

_FIELD = re.compile(r"@([A-Z_]+)@")
_LINES = ("partition", "account", "qos", "constraint", "exclude", "reservation", "time", "mem", "cpus_per_task")


def sbatch_script(job: JobOptions, shape: Shape, name: str, words: list[str]) -> str:
    """The script's text.

    Args:
        job: what it asks of SLURM.
        shape: its layout.
        name: of the job.
        words: of ``coprs fit``, configs as paths that the nodes see.

    Raises:
        UsageError: for a template that cannot be read, or asks for what is not known.
    """
    output = Path(job.output).absolute()
    values = {
        "NAME": name,
        "NODES": str(shape.nodes),
        "TASKS": str(shape.tasks),
        "RESOURCES": "\n".join(f"#SBATCH --{line}" for line in _resources(job, shape)),
        "SIGNAL_SECONDS": str(job.signal_seconds),
        "LOG": str(output / f"{name}-%j.log"),
        "FOLDER": shlex.quote(str(Path.cwd())),
        "RUN": f"{shlex.quote(str(output / name))}-$SLURM_JOB_ID",
        "SETUP": "".join(f"{line}\n" for line in job.setup),
        "SRUN": "".join(f" {word}" for word in _srun(job)),
        "COMMAND": " \\\n  ".join(_command(job, [*words, *shape.words])),
    }
    text, source = _template(job.template)
    unknown = sorted({field for field in _FIELD.findall(text) if field not in values})
    if unknown:
        raise UsageError(f"{source}: @{unknown[0]}@ is not known. Known are: {', '.join(f'@{v}@' for v in values)}.")
    text = _FIELD.sub(lambda found: found[0] if values[found[1]] else "", text)
    text = re.sub(r"\n{3,}", "\n\n", text)  # where nothing stands; line ends in values stay
    return _FIELD.sub(lambda found: values[found[1]], text)


def _template(path: str | None) -> tuple[str, Path]:
    source = Path(path) if path else shipped_configs() / "slurm" / "fit.sbatch"
    try:
        return source.read_text(encoding="utf-8"), source
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--template {source} cannot be read: {error}.") from error


def _resources(job: JobOptions, shape: Shape) -> list[str]:
    found = [f"gpus-per-node={shape.gpus}"] if shape.gpus else []
    for option in _LINES:
        value = getattr(job, option)
        if value is not None:
            found.append(f"{option.replace('_', '-')}={value}")
    return found


def _srun(job: JobOptions) -> list[str]:
    # since SLURM 22.05 srun does not take the cores of a task from sbatch
    words = [f"--cpus-per-task={job.cpus_per_task}"] if job.cpus_per_task else []
    if job.container:
        words += [f"--container-image={shlex.quote(job.container)}", '--container-workdir="$PWD"']
    if job.container_mounts:
        words.append(f"--container-mounts={shlex.quote(job.container_mounts)}")
    return words


def _command(job: JobOptions, words: list[str]) -> list[str]:
    """Program and options, an option with its value a line."""
    program = ["coprs"] if job.container else [sys.executable, "-m", "coprs_lightning"]
    lines = [shlex.join([*program, "fit"])]
    for word in words:
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit():
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return lines
