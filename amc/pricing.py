"""From a configuration to a cost model: this machine's latency table, measured where it lacks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from amc.calibration import WholeNetworks
from amc.compress import compress, kept_of
from amc.config_sections import LatencyConfig
from amc.errors import InputError
from amc.kernels.patterns import PATTERNS, STORED_AS
from amc.latency import LatencyTable
from amc.latency.checkpoint import checkpoint_path
from amc.latency.device import describe_device, kernel_digest, target_path
from amc.latency.measure import Networks, measure_table
from amc.latency.sampling import KernelRequest
from amc.network_cost import NetworkCostModel
from amc.network_structure import NetworkStructure, network_structure, sparse_requests
from amc.registry import nearest
from amc.reporting import Handle, Reporter
from amc.space import SearchSpace
from amc.task import LoadedTask

PATIENCE_S = 30.0  # for a calm core, at first, where measuring is what was asked for


def structure_of(task: LoadedTask, space: SearchSpace, batch_size: int) -> NetworkStructure:
    """Return the operations of the task's network as functions of the space's widths."""

    def build(widths: Sequence[int]) -> nn.Module:
        # Blocks stay: what goes with each is found by itself.
        pairs = zip(space.sites, widths, strict=True)
        whole = [site.full if site.decides == "block" else width for site, width in pairs]
        return compress(task.network, space.groups, kept_of(space.plan(whole)))

    return network_structure(build, space.sites, task.batch(batch_size))


def cost_model(
    task: LoadedTask, space: SearchSpace, latency: LatencyConfig, reporter: Reporter
) -> NetworkCostModel:
    """Return the cost model of a task on the configured target.

    ``auto`` measures what this machine's cached table lacks, and adds it there. Any other target
    is used as it is: ``InputError`` names the first kernel that it lacks.
    """
    structure = structure_of(task, space, latency.batch_size)
    path = target_path(latency.target, torch.__version__, latency.threads)
    if latency.target != "auto":
        given = LatencyTable.load(path)
        if given.threads != latency.threads:
            raise InputError(
                f"latency.threads {latency.threads} does not fit the table {str(path)!r}, which "
                f"was measured with {given.threads}; set latency.threads to that"
            )
        return NetworkCostModel(structure, given)
    patterns = tuple(
        dict.fromkeys(
            STORED_AS.get(pattern, pattern)
            for site in space.sites
            for pattern in site.patterns.values()
        )
    )
    requests = _requests(structure, task, patterns)
    its = _networks(task, space, latency, patterns)
    own = restricted(_complete(its, requests, path, reporter), requests, its.dense.key)
    _say_noise(own, path, reporter)
    return NetworkCostModel(structure, own)


def _say_noise(table: LatencyTable, path: Path, reporter: Reporter) -> None:
    """Say that a table which was measured without anybody being asked is noisy."""
    if table.is_noisy:
        reporter.message(
            f"note: {table.noisy_points} points of the latency table {path} are noisy: other "
            "programs ran while it was measured, and predictions may be some percent off; "
            "`amc measure` on a quiet machine times them again"
        )


def restricted(table: LatencyTable, requests: Sequence[KernelRequest], own: str) -> LatencyTable:
    """Return the part of ``table`` that the search depends on of the network with key ``own``."""
    needed = {request.template.key for request in requests}
    families = {key.partition(":")[0] for key in needed}
    return replace(
        table,
        backends={name: its for name, its in table.backends.items() if name in families},
        kernels={key: times for key, times in table.kernels.items() if key in needed},
        networks={key: time for key, time in table.networks.items() if key == own},
    )


def is_here(table: LatencyTable) -> bool:
    """Return whether ``table`` was measured on a machine and a torch like these."""
    same_torch = table.torch_version == torch.__version__
    return same_torch and dict(table.device) == describe_device()


def _networks(
    task: LoadedTask, space: SearchSpace, latency: LatencyConfig, patterns: Sequence[str] = ()
) -> WholeNetworks:
    return WholeNetworks(task, space, latency.batch_size, latency.threads, tuple(patterns))


def _complete(
    its: WholeNetworks,
    requests: Sequence[KernelRequest],
    path: Path,
    reporter: Reporter,
    *,
    anew: bool = False,
    allow_noisy: bool = True,
    patience_s: float | None = None,
) -> LatencyTable:
    """Return the table in ``path`` with all of ``requests``, measured and written where it lacks.

    ``requests`` are the kernels that networks such as ``its`` run. With
    ``anew`` what is there does not count; unless ``allow_noisy``, kernels with noisy points are
    measured again. Killed, the same call goes on from a checkpoint beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if anew else FileLock(f"{path}.lock"):
        table = LatencyTable.load(path) if path.is_file() and not anew else None
        if table is not None and table.is_noisy and not allow_noisy:
            calm = {k: times for k, times in table.kernels.items() if not times.noisy}
            table = replace(table, kernels=calm)
        measured = measure_table(
            requests,
            its.threads,
            table,
            Networks(
                [its.dense],
                its.compressed,
                its.processes(reporter, patience_s) if patience_s is not None else (),
            ),
            progress=_progress(reporter),
            checkpoint=checkpoint_path(path),
            allow_noisy=allow_noisy,
            patience_s=patience_s,
        )
        if measured is table:
            return table
        # As it will be read again: a file holds times to the nanosecond.
        measured = LatencyTable.from_json(measured.as_json())
        measured.save(path)
        checkpoint_path(path).unlink(missing_ok=True)
    return measured


def _progress(reporter: Reporter) -> Callable[[int, int, str], None]:
    bar: Handle | None = None
    shown = (0, 0)  # done, and of how many

    def progress(done: int, total: int, what: str) -> None:
        nonlocal bar, shown
        if bar is None or total != shown[1] or done <= shown[0]:
            bar, shown = reporter.task("measuring kernels", total), (0, total)
        bar.advance(done - shown[0], what)
        shown = (done, total)

    return progress


def patterns_of(names: str) -> tuple[str, ...]:
    """Return the patterns that a list such as ``2:4,csr`` names; ``all`` is every one."""
    if names == "all":
        return PATTERNS
    patterns = tuple(name for name in names.split(",") if name and name != "dense")
    for name in patterns:
        if name not in PATTERNS:
            known = ["dense", *PATTERNS, "all"]
            raise InputError(
                f"--patterns names {name!r}, which is no pattern{nearest(name, known) or '.'} "
                f"Known: {', '.join(known)}"
            )
    return tuple(dict.fromkeys(patterns))


def all_requests(
    task: LoadedTask, space: SearchSpace, batch_size: int, patterns: Sequence[str]
) -> list[KernelRequest]:
    """Return every kernel that a network of the space can run, dense and in ``patterns``."""
    return _requests(structure_of(task, space, batch_size), task, patterns)


def _requests(
    structure: NetworkStructure, task: LoadedTask, patterns: Sequence[str]
) -> list[KernelRequest]:
    inputs = task.batch(structure.batch_size)
    sparse = sparse_requests(structure, task.network, inputs, patterns) if patterns else []
    return [*structure.kernel_requests(), *sparse]


def complete_table(
    task: LoadedTask,
    space: SearchSpace,
    latency: LatencyConfig,
    path: Path,
    patterns: Sequence[str],
    reporter: Reporter,
) -> LatencyTable:
    """Return the table in ``path``, to which what a network of the space can run is added.

    Raises ``InputError`` where it is of another machine, torch, number of threads or kernels.
    """
    if path.is_file():
        _check_same(LatencyTable.load(path), path, latency.threads)
    requests = all_requests(task, space, latency.batch_size, patterns)
    its = _networks(task, space, latency, patterns)
    table = _complete(its, requests, path, reporter, patience_s=PATIENCE_S)
    _say_noise(table, path, reporter)
    return table


def _check_same(table: LatencyTable, path: Path, threads: int) -> None:
    here = describe_device()
    for what, its, now in (
        ("threads", table.threads, threads),
        ("torch", table.torch_version, torch.__version__),
        ("processor", table.device.get("cpu"), here["cpu"]),
        ("instruction sets", table.device.get("isa"), here["isa"]),
        ("kernel sources", table.kernel_digest[:12], kernel_digest()[:12]),
    ):
        if its != now:
            raise InputError(
                f"table {str(path)!r} was measured with other {what}: {its}, but here is {now}; "
                "name another file, and it is measured anew"
            )


def measure_to(
    task: LoadedTask,
    space: SearchSpace,
    latency: LatencyConfig,
    out: Path | None,
    reporter: Reporter,
    patterns: Sequence[str] = (),
    allow_noisy: bool = False,
) -> dict[str, Any]:
    """Measure what a search of ``task`` needs, anew into ``out`` or, what it lacks, into the cache.

    Dense, and each layer that can run so in each of ``patterns`` too. Raises ``InputError`` where
    too many points stay noisy, unless ``allow_noisy``.
    """
    begin = time.perf_counter()
    requests = all_requests(task, space, latency.batch_size, patterns)
    path = out or target_path("auto", torch.__version__, latency.threads)
    table = _complete(
        _networks(task, space, latency, patterns),
        requests,
        path,
        reporter,
        anew=out is not None,
        allow_noisy=allow_noisy,
        patience_s=PATIENCE_S,
    )
    needed = [table.kernels[r.template.key] for r in requests]
    errors = [times.fit_error for times in needed if times.fit_error is not None]
    return {
        "out": str(path),
        "device": table.device["cpu"],
        "clocks": dict(table.clocks),
        "backend": table.backend,
        "threads": table.threads,
        "batch_size": latency.batch_size,
        "patterns": ["dense", *patterns],
        "kernels": len(needed),
        "points": sum(times.seconds.size for times in needed),
        "noisy_points": sum(len(times.noisy) for times in needed),
        "noisy": table.is_noisy,
        "median_spread": float(np.median(np.concatenate([t.spread.ravel() for t in needed]))),
        "median_fit_error": float(np.median(errors)) if errors else None,
        "digest": table.digest,
        "measure_s": round(time.perf_counter() - begin, 2),
    }
