"""What a launch was asked for, by the launcher's arguments and by the cluster; what differs from it is refused.

accelerate has ways to start less than it is asked for: several machines under DeepSpeed go to pdsh by default, which
trains on one of them where there is no host file, and without a configuration one process is started whatever
`--num_processes` says. Platforms name a cluster in variables that no launcher of ours reads.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ASKED = "TOUCHSTONE_ASKED"
"""Environment variable: machines, processes on all of them, and this machine's rank by the launcher's arguments."""
PID = "TOUCHSTONE_LAUNCHER_PID"
"""The process number of the launcher; a training process of another parent has lost it."""
COUNTING = ("NUM_NODES", "SLURM_NNODES", "NUM_TRAINERS", "NODE_RANK", "SLURM_NODEID")
CLUSTER = (*COUNTING, "PRIMARY_ADDR", "PRIMARY_PORT")
"""Environment variables by which a platform describes a cluster; the first ones hold whole numbers."""
STANDARD = "standard"
"""accelerate's name for torchrun, where DeepSpeed has launchers of its own."""
NOT_STANDARD = (
    "DeepSpeed's own launcher may train on one of several machines in silence, and writes every environment variable "
    "into a file: give accelerate launch --deepspeed_multinode_launcher standard, as accelerate_configs/ does"
)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Machines and processes that train together."""

    machines: int
    processes: int
    """On all machines."""
    machine: int
    """Rank of this machine."""

    def __str__(self) -> str:
        return f"{counted(self.processes, 'process', 'es')} on {counted(self.machines, 'machine', 's')}"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a variable of the cluster says, and the flag of accelerate that obeys it."""

    variable: str
    value: str
    there: str
    """What the launch has of it."""
    met: bool
    flag: str


def check(environment: Mapping[str, str] = os.environ, *, ignore_cluster: bool) -> None:
    """Compare the processes that train with what was asked for.

    Raises:
        ValueError: they are not those that the launcher or the cluster asks for, or nobody can know.
    """
    there = Launch(
        machines=int(environment.get("GROUP_WORLD_SIZE") or environment.get("CROSS_SIZE") or 1),
        processes=int(environment.get("WORLD_SIZE") or 1),
        machine=int(environment.get("GROUP_RANK") or 0),
    )
    # CROSS_SIZE is of DeepSpeed's launcher, which accelerate starts for several machines alone.
    if "CROSS_SIZE" in environment and (there.machines > 1 or environment.get("ACCELERATE_USE_DEEPSPEED") == "true"):
        raise ValueError(NOT_STANDARD)
    if (asked := asked_here(environment)) is not None:
        compare(asked, there)
    if ignore_cluster:
        return
    wishes = list(wishes_of(environment, there))
    for wish in wishes:
        if not wish.met:
            flags = " ".join(dict.fromkeys(other.flag for other in wishes))
            raise ValueError(
                f"{wish.variable} is {wish.value}, but this launch has {wish.there}: give accelerate launch {flags}, "
                "or --ignore-cluster to train as launched"
            )


def ignored(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What --ignore-cluster passes over."""
    return [f"{name}={environment[name]}" for name in CLUSTER if environment.get(name)]


def compare(asked: Launch, there: Launch) -> None:
    """Refuse a launch that is not what its launcher was asked for (ValueError)."""
    if asked.machines == 1 and asked.machine > 0:
        raise ValueError(f"--machine_rank {asked.machine} is of no use with one machine: give --num_machines too")
    if (asked.machines, asked.processes) == (there.machines, there.processes):
        return
    fix = "give --config_file accelerate_configs/ddp.yaml, or cpu.yaml without a GPU"
    if asked.processes % asked.machines:
        larger = -(-asked.processes // asked.machines) * asked.machines
        fix = f"--num_processes counts those of all machines: give a multiple of {asked.machines}, such as {larger}"
    raise ValueError(f"accelerate was asked for {asked}, but started {there}: {fix}")


def asked_here(environment: Mapping[str, str]) -> Launch | None:
    """What the launcher of this process was asked for; None where it is not accelerate's.

    Raises:
        ValueError: it was asked for several machines by another launcher than torchrun.
    """
    parent = os.getppid()
    if ASKED in environment and environment.get(PID) == str(parent):
        machines, processes, machine = map(int, environment[ASKED].split())
        return Launch(machines=machines, processes=processes, machine=machine)
    try:
        return asked_of(psutil.Process(parent).cmdline())
    except psutil.Error:  # it is gone, or another user's
        return None


def asked_of(command: Sequence[str]) -> Launch | None:
    """What a command line asks of `accelerate launch`, its configuration file included; None of another command.

    Raises:
        ValueError: it asks for several machines by another launcher than torchrun.
    """
    if (arguments := arguments_of(command)) is None:
        return None
    from accelerate.commands import launch

    logger = logging.getLogger(launch.__name__)
    disabled, logger.disabled = logger.disabled, True  # which defaults it takes, it has said itself
    try:
        wanted, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(arguments))
    finally:
        logger.disabled = disabled
    machines = wanted.num_machines or 1
    if machines > 1 and wanted.use_deepspeed and wanted.deepspeed_multinode_launcher != STANDARD:
        raise ValueError(NOT_STANDARD)
    return Launch(machines=machines, processes=wanted.num_processes or 1, machine=int(wanted.machine_rank or 0))


def arguments_of(command: Sequence[str]) -> list[str] | None:
    """What follows `accelerate launch` in a command line, however it is spelt; None of another command."""
    for place, word in enumerate(command):
        name, rest = Path(word).name, list(command[place + 1 :])
        if name in ("accelerate-launch", "accelerate.commands.launch") or word.endswith(
            "accelerate/commands/launch.py"
        ):
            return rest
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and rest[:1] == ["launch"]:
            return rest[1:]
        if name.endswith(".py"):
            return None
    return None


def wishes_of(environment: Mapping[str, str], there: Launch) -> Iterator[Wish]:
    """What the variables of the cluster ask for.

    Raises:
        ValueError: one that counts is no number.
    """
    given = {name: environment[name] for name in CLUSTER if environment.get(name)}
    for name in COUNTING:
        if not given.get(name, "0").isdecimal():
            raise ValueError(f"{name} is '{given[name]}', which is no whole number; --ignore-cluster passes over it")
    numbers = {name: int(given[name]) for name in COUNTING if name in given}
    machines = numbers.get("NUM_NODES", numbers.get("SLURM_NNODES"))
    here = there.processes // there.machines
    for name, number in numbers.items():
        match name:
            case "NUM_NODES" | "SLURM_NNODES":
                own, has, flag = there.machines, counted(there.machines, "machine", "s"), f"--num_machines {number}"
            case "NUM_TRAINERS":
                own, has = here, f"{counted(here, 'process', 'es')} a machine"
                flag = f"--num_processes {number * (machines or there.machines)}"
            case _:
                own, has, flag = there.machine, f"machine rank {there.machine}", f"--machine_rank {number}"
        yield Wish(variable=name, value=given[name], there=has, met=number == own, flag=flag)
    if machines == there.machines == 1:
        return  # the address is of this machine alone
    for name, ours, flag in (("PRIMARY_ADDR", "MASTER_ADDR", "ip"), ("PRIMARY_PORT", "MASTER_PORT", "port")):
        if (value := given.get(name)) is not None:
            rendezvous = environment.get(ours) if there.machines > 1 else None
            has = rendezvous or "no other machine"
            yield Wish(
                variable=name, value=value, there=has, met=value == rendezvous, flag=f"--main_process_{flag} {value}"
            )


def counted(number: int, noun: str, plural: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{plural if number != 1 else ''}"
