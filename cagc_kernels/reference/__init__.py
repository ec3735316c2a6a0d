"""Pure PyTorch definitions of every op: the oracle, the fallback and the export path."""
