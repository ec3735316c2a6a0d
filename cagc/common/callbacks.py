"""Types of progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the number of finished steps and their total."""
Track = Callable[[str], Progress]
"""Called with the title of a task; returns its :data:`Progress`."""
