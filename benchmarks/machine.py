"""What every benchmark needs: the machine in a line, medians of interleaved timings, and a table."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe(*packages: str) -> str:
    """Return the processor, its cores and the versions of Python and `packages` in a line; it names no host."""
    versions = [f"Python {platform.python_version()}", *(f"{package} {installed(package)}" for package in packages)]
    tuned = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    return ", ".join([f"{processor()}, {os.cpu_count()} cores", *versions, *tuned])


def installed(package: str) -> str:
    """Return the version of an installed package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def median_seconds(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each function's median time in seconds; they take turns, so that whatever slows the machine slows them all."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):  # the first warms up
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column flush left: drawn in a terminal, aligned lines in a pipe."""
    if sys.stdout.isatty():
        _draw(title, columns, rows)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    print(title)
    for row in (columns, *rows):
        print("  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))), flush=True)


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
