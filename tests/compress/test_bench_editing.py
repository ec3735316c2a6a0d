"""The benchmark of smoothness, and the tables of docs/editing.md."""

from __future__ import annotations

import torch

from benchmarks import tables_documents
from benchmarks.bench_editing import measure
from benchmarks.tables import document_table
from cagc.checkpoints import load_generator


def left_half(images: torch.Tensor, seeds=None) -> torch.Tensor:
    mask = torch.zeros_like(images[:, :1])
    mask[..., : images.shape[-1] // 2] = 1
    return mask


def test_every_measure_of_a_generator(small_teacher):
    teacher = load_generator(small_teacher)
    found = measure(teacher, teacher, 15, left_half, lambda a, b: (a - b).square().mean())
    assert [name for name in found if name.startswith("path length")] == [
        f"path length, {space} {sampling}" for space in "WZ" for sampling in ("full", "end")
    ]
    assert all(value > 0 for value in found.values())
    assert found["leakage"] == found["edit, change outside"] / found["edit, change inside"]
    assert found["authors' path length"] < found["path length, W full"]


def test_tables():
    facts = {"command": "cagc project a.png", "machine": {"device": "CPU", "driver": None}}
    rows = {"psnr_db": [10.0, 20.0], "content_psnr_db": [30.0, 31.0]}
    table = document_table("projection", facts | {"images": ["a", "b"], "generators": {"Teacher": rows}})
    assert "| Teacher | the content | 30.00 dB | 31.00 dB | 30.50 dB |" in table
    assert table.endswith("`cagc project a.png`; device CPU.")
    facts |= {"samples": 9, "perceptual": "features", "content": "faces"}
    table = document_table("smoothness", facts | {"generators": {"Teacher": {"m": 1.23456}, "Student": {"m": 2.0}}})
    assert table.splitlines()[:3] == ["| | Teacher | Student |", "|---|---|---|", "| m | 1.235 | 2 |"]


def test_no_results_no_tables(tmp_path):
    assert set(tables_documents.editing(tmp_path).values()) == {""}
