"""Labels of class-conditional generators: where those of generated images come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Labels:
    """A table of labels, of which the image of seed s, or draw s, has row s modulo the number of rows.

    Args:
        c_dim: length of a label.
        rows: int64 [K], classes that become one-hot labels, or floating point [K, c_dim], labels as they are.
        source: where they come from, for reports.

    Raises:
        ValueError: ``rows`` is empty or not as above, a class is not in 0 to c_dim - 1, or a number is not finite.
    """

    def __init__(self, c_dim: int, rows: Tensor, source: str) -> None:
        self.c_dim, self.rows, self.source = c_dim, rows, source
        if rows.is_floating_point():
            if rows.ndim != 2 or rows.shape[1] != c_dim or len(rows) == 0:
                raise ValueError(f"labels: got {list(rows.shape)} numbers, expected [K, {c_dim}] and not empty")
            if not rows.isfinite().all():
                raise ValueError("labels: got NaN or infinity, expected finite numbers")
        elif rows.ndim != 1 or len(rows) == 0 or rows.dtype != torch.int64:
            raise ValueError(f"labels: got {rows.dtype} {list(rows.shape)}, expected int64 [K] and not empty")
        elif int(rows.min()) < 0 or int(rows.max()) >= c_dim:
            wrong = int(rows.min()) if int(rows.min()) < 0 else int(rows.max())
            raise ValueError(f"labels: got class {wrong}, expected 0 to {c_dim - 1}")

    @classmethod
    def uniform(cls, c_dim: int) -> Labels:
        """Every class equally often."""
        return cls(c_dim, torch.arange(c_dim), f"every one of {c_dim} classes equally often")

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, draws: Sequence[int]) -> Tensor:
        """Labels [N, c_dim], float32, of the seeds or draws ``draws``."""
        chosen = self.rows[torch.tensor([int(draw) % len(self) for draw in draws], dtype=torch.int64)]
        if chosen.is_floating_point():
            return chosen.float()
        return torch.nn.functional.one_hot(chosen, self.c_dim).float()

    def distinct(self, most: int) -> dict[str, Tensor]:
        """The first ``most`` different labels [c_dim], float32, by a name for pictures."""
        if self.rows.is_floating_point():
            return {f"row {i}": row.float() for i, row in enumerate(self.rows[:most])}
        classes = self.rows.unique()[:most].tolist()
        one_hot = torch.nn.functional.one_hot(torch.tensor(classes), self.c_dim).float()
        return {str(name): label for name, label in zip(classes, one_hot)}

    def shuffled(self) -> Labels:
        """The same rows in an order that depends on their number alone: neighbours in a file are often of one class."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return Labels(self.c_dim, self.rows[order], self.source)

    def fingerprint(self) -> str:
        """Hash of the table, 16 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.c_dim} {self.rows.dtype}".encode())
        digest.update(self.rows.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def check_labels(c: Tensor | None, count: int, c_dim: int) -> None:
    """Raise ValueError unless ``c`` is [``count``, ``c_dim``], or, where there are no labels, None."""
    if c is None:
        if c_dim:
            raise ValueError(f"c: got None, expected labels [{count}, {c_dim}]: the network is class-conditional")
    elif tuple(c.shape) != (count, c_dim):
        expected = f"labels [{count}, {c_dim}]" if c_dim else "None: the network takes no labels"
        raise ValueError(f"c: got shape {list(c.shape)}, expected {expected}")
