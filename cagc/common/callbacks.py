"""What long work tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""
Track = Callable[[str], Progress]
"""Called with the title of a task, gives its :data:`Progress`."""
