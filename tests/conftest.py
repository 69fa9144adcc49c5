"""What every test may rely on."""

import os
import signal
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

import pytest

# Workers of pytest-xdist share the cores: more threads than one in each would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs something in the background has it ignore Ctrl-C, and its children inherit that; some tests are about Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _missing(report: Any) -> bool:
    """Tell whether a test was skipped for want of a library, where all of them should be: in CI, beside torch (the core stage has neither)."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    return bool(report.skipped and "could not import" in reason and os.environ.get("CI") and find_spec("torch"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, Any, Any]:
    """Let a missing library be an error in CI, and a skip at a user's."""
    report = yield
    if _missing(report):
        report.outcome, report.longrepr = "failed", f"CI has everything installed, and this was skipped: {report.longrepr[2]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: Any) -> Generator[None, Any, Any]:
    """The same for whole files."""
    report = yield
    if _missing(report):
        report.outcome, report.longrepr = "failed", f"CI has everything installed, and this file was skipped: {report.longrepr[2]}"
    return report
