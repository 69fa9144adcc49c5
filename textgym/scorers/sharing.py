"""One model in memory for all scorers of one folder: the environments of a `SyncVectorEnv` each make their own scorer."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

_SHARED: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()


def choices(scorer: Any) -> tuple[Any, ...]:
    """Return the arguments that a scorer was built from, in their order."""
    return tuple(getattr(scorer, choice.name) for choice in fields(scorer) if choice.init)


def shared(build: Callable[[], Any], kind: str, model: object, settings: tuple[Any, ...]) -> Any:
    """Return what `build` makes of a folder, or what it made before of the same files while somebody still uses it."""
    if not isinstance(model, str | Path) or not Path(model).is_dir():
        return build()
    stats = [(path.name, path.stat()) for path in sorted(Path(model).iterdir())]
    key = (kind, str(Path(model).resolve()), settings, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))
    made = _SHARED.get(key)
    if made is None:
        _SHARED[key] = made = build()
    return made
