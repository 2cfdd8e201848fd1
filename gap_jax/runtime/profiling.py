"""Records a range of steps for XProf, TensorBoard's profiler or Perfetto."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from gap_jax.config import RuntimeConfig


class Profile(AbstractContextManager["Profile"]):
    """Records the configured steps; a failure ends the recording and not the run."""

    def __init__(self, cfg: RuntimeConfig, folder: Path, warn: Callable[[str], None]) -> None:
        first = cfg.profile_start_step
        self._steps = range(first, first + cfg.profile_steps if first else 0)
        self._folder = folder
        self._warn = warn
        self._is_recording = False

    def before(self, step: int, state: Any) -> None:
        """Starts recording before the first step; call it before each step with its state."""
        if step in self._steps and not self._is_recording:
            jax.block_until_ready(state)
            self._is_recording = self._attempt(lambda: jax.profiler.start_trace(self._folder))

    def after(self, step: int, state: Any) -> None:
        """Stops recording after the last step; call it after each step with the new state."""
        if self._is_recording and step == self._steps[-1]:
            jax.block_until_ready(state)
            self.__exit__()

    def __exit__(self, *error: object) -> None:
        if self._is_recording:
            self._attempt(jax.profiler.stop_trace)
        self._is_recording = False

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # the profiler may raise anything; training goes on
            self._steps = range(0)
            self._warn(f"nothing is profiled ({error}); training goes on without it")
            return False
        return True
