"""Checks every kernel against float64 on this machine: ``python -m cagc_kernels.verify [--quick] [--json]``."""

import sys

from .verification import verify
from .verification.command import main

if __name__ == "__main__":
    sys.exit(main())

# Importing this module would hide the function ``cagc_kernels.verify`` behind the module, so the function is restored,
# with what importlib.util.find_spec asks of a module.
verify.__spec__ = __spec__
sys.modules[__name__] = verify
