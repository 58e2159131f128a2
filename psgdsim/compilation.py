"""Compiling: jit on first call, and a cache on disk so that a program is compiled once per machine, not per process."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable, Hashable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_KEPT: Final = "_jitted"


def lazy_jit(function: Callable[..., Any], *, static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Return `jax.jit(function)`, made at the first call so that defining it does not import jax.

    Args:
        function: a pure function of arrays.
        static: names of arguments that are part of the compiled shape, not data.
    """

    @functools.cache
    def compiled() -> Callable[..., Any]:
        import jax

        return jax.jit(function, static_argnames=static)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        return compiled()(*arguments, **keywords)

    return call


def jit_of(owner: Any, function: Callable[..., Any], *facts: Hashable) -> Callable[..., Any]:
    """Return `lazy_jit(function)`; of an owner that keeps it, the same one for the same name of the function and facts.

    A model, an optimizer or a codec is compiled once then, in however many runs of this process it is used.

    Args:
        owner: what the function belongs to: an object, of which alone the function is made.
        function: a pure function of arrays, the same whenever owner, name and facts are. It lives as long as an owner
            that keeps it.
        facts: what else it is made of.
    """
    kept, name = getattr(owner, _KEPT, None), getattr(function, "__qualname__", None)
    if kept is None or name is None:
        return lazy_jit(function)
    return kept.setdefault((name, *facts), lazy_jit(function))  # type: ignore[no-any-return]


def keep_jitted(owner: Any) -> None:
    """Let an object keep what is jitted of it (see `jit_of`); it must never behave in another way than now."""
    owner.__dict__.setdefault(_KEPT, {})


class CompileClock:
    """Add up the time that jax spends on tracing and compiling in this process, from now on.

    Attributes:
        seconds: so far [s].
        num_programs: how many programs have been compiled, or taken from the cache on disk.
    """

    def __init__(self) -> None:
        import jax

        self.seconds = 0.0
        self.num_programs = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
            self.num_programs += event.endswith("/backend_compile_duration")


@functools.cache
def compile_clock() -> CompileClock:
    """Return the clock of this process; it runs since this was called for the first time."""
    return CompileClock()


def use_cache_on_disk() -> None:
    """Let jax keep what it compiles in the user's cache folder; call it before anything is compiled.

    The folder is `$PSGDSIM_CACHE_DIR` or `psgdsim` in the user's cache folder, in it one folder per jaxlib version
    and kind of processor. An empty `PSGDSIM_CACHE_DIR` turns it off; a cache that was chosen for jax itself stays.
    """
    import jax

    chosen = os.environ.get("PSGDSIM_CACHE_DIR")
    config: Any = jax.config
    if chosen == "" or config.jax_compilation_cache_dir is not None:
        return
    try:
        cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "psgdsim"
    except RuntimeError:  # there is no home
        return
    folder = cache / f"jaxlib-{metadata.version('jaxlib')}-{_processor()}"
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> str:
    """Return a short name of the processor and its instruction sets: compiled code must not move to another."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        facts = [line for line in text.splitlines() if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        facts = [platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
