"""Every kernel against float64 on this machine: ``python -m cagc_kernels.verify [--quick] [--json]``."""

import sys

from .verification import verify
from .verification.command import main

if __name__ == "__main__":
    sys.exit(main())

# What an import of this module leaves as ``cagc_kernels.verify``: the function, as without the import.
sys.modules[__name__] = verify
