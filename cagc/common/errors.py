"""The one error that a user is meant to read."""


class CagcError(ValueError):
    """Input that cannot be used: says what came and what was expected, in one line.

    The command line prints it as ``error: ...`` and exits with status 2.
    """
