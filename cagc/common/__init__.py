"""Helpers that all parts of the package share: errors, checks, files, documents, untrusted input, processes."""
