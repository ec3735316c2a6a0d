"""What every part of the package uses and no part of it owns."""
