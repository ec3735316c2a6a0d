"""``python -m cagc``, the form that ``torchrun -m`` can start."""

from .cli import main
from .common.allocator import keep_memory

keep_memory()
main()
