"""Which of a run's processes this one is, by what torchrun or srun say; without torch, since a refusal needs it too."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pctool.errors import InputError


def placement(environment: Mapping[str, str]) -> tuple[int, int, int, str] | None:
    """(rank, processes, local rank, where they meet) by torchrun's or srun's variables; None for one process."""
    if "TORCHELASTIC_RUN_ID" in environment or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environment.keys():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        address = "env://"
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
        port = environment.get("MASTER_PORT") or str(20_000 + int(environment.get("SLURM_JOB_ID", "0")) % 20_000)
        address = f"tcp://{host}:{port}"
    else:
        return None
    try:
        rank, size, local = (int(environment[name]) for name in names)
    except (KeyError, ValueError):
        raise InputError(f"{', '.join(names)} do not say which process this is; start with torchrun or srun") from None
    return None if size == 1 else (rank, size, local, address)


def first_host(nodes: str) -> str:
    """The first of SLURM's compressed list of nodes: `gpu[03-05,9],login1` begins with gpu03."""
    match = re.match(r"([^\[,]*)(?:\[([^-,\]]*)[^\]]*\])?([^,]*)", nodes)
    assert match is not None  # every part may be empty
    return "".join(part or "" for part in match.groups())
