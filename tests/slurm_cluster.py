"""A real SLURM cluster of several nodes on this machine: no root, no munge, loopback only, nothing under /etc."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_START_SECONDS = 30
_PROGRAMS = ("slurmctld", "slurmd", "srun", "sinfo", "scancel", "squeue")
_PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"

_CONFIG = """\
ClusterName=coprs
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
KillWait=5
InactiveLimit=0
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        environment: for every client command and job.
        folder: configuration, state and logs.
    """

    environment: dict[str, str]
    folder: Path

    def run(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a client command (``srun``, ``squeue`` …)."""
        return subprocess.run(
            words, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )

    def logs(self) -> str:
        """The ends of all daemons' logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


def require_slurm() -> None:
    """Skip the test where SLURM is not installed."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client")


@contextmanager
def slurm_cluster(folder: Path, nodes: int = 2) -> Iterator[Cluster]:
    """Start a controller and ``nodes`` nodes of two CPUs, and stop them at the end.

    Args:
        folder: empty folder for configuration, state and logs.
        nodes: number of nodes, ``node1`` and so on.

    Raises:
        RuntimeError: when the cluster does not come up; with its logs.
    """
    names = [f"node{number + 1}" for number in range(nodes)]
    cluster = Cluster(_environment(folder), folder)
    _write_config(folder, names)
    commands = [["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", name] for name in names)]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            daemons.append(
                subprocess.Popen(
                    [*command, "-f", cluster.environment["SLURM_CONF"]],
                    env=cluster.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        _wait_until_idle(cluster, daemons, nodes)
        yield cluster
    finally:
        cluster.run("scancel", "-u", getpass.getuser())
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _environment(folder: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    # node names do not resolve here, and Lightning would take the first of them as the rendezvous
    return {**inherited, "SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1", "PATH": _PATH}


def _write_config(folder: Path, names: list[str]) -> None:
    host = socket.gethostname().split(".")[0]
    port, *node_ports = _free_ports(1 + len(names))
    for name in names:
        (folder / "spool" / name).mkdir(parents=True)
    (folder / "state").mkdir()
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=2 State=UNKNOWN"
        for name, node_port in zip(names, node_ports, strict=True)
    ]
    values = {"host": host, "port": port, "user": getpass.getuser(), "folder": folder, "names": ",".join(names)}
    (folder / "slurm.conf").write_text(_CONFIG.format(**values, nodes="\n".join(lines)))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


def _wait_until_idle(cluster: Cluster, daemons: list[subprocess.Popen[bytes]], nodes: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while cluster.run("sinfo", "-h", "-N", "-o", "%T").stdout.split() != ["idle"] * nodes:
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            raise RuntimeError(f"the cluster did not start:\n{cluster.logs()}")
        time.sleep(0.1)
