"""A window of steps recorded for XProf, TensorBoard's profiler or Perfetto."""

from pathlib import Path
from typing import Any

import jax

from gap_jax.config import RuntimeConfig


class Profile:
    """Records the steps from `profile_start_step` on, once; a run that ends inside keeps its part.

    Of a resumed run it records nothing where the window lies behind it.
    """

    def __init__(self, cfg: RuntimeConfig, folder: Path) -> None:
        self._first = cfg.profile_start_step
        self._behind = cfg.profile_start_step + cfg.profile_steps
        self._folder = folder
        self._is_recording = False

    def move_to(self, step: int, state: Any) -> None:
        """Call before each step, with the state that it starts from."""
        if self._is_recording and step >= self._behind:
            jax.block_until_ready(state)  # the device may be behind: its last step belongs here too
            self._stop()
        if self._first and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder)
            self._is_recording = True

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_recording:
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_recording = False
