"""The error class for input that cannot be used."""


class CagcError(ValueError):
    """Input that cannot be used; the message says in one line what was given and what was expected.

    The command line prints it as ``error: ...`` and exits with status 2.
    """
