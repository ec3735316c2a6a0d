"""``python -m cagc``, the form that ``torchrun -m`` can start."""

from .cli import main

main()
