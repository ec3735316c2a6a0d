"""Tables of docs/sngan.md from rows whose figures are known."""

from __future__ import annotations

from benchmarks import tables_documents
from benchmarks.bench_compression import TEACHER
from benchmarks.results import machine, make_row, versions

SETTINGS = {"samples": 12, "draws": 2, "pairs": 2, "features": "f", "neighbours": 3, "content": "faces"}


def row(label: str, macs: int, ms: float, content_l1: float | None) -> dict:
    times = {batch: {"median_ms": scale * ms, "speedup": 10.0 / ms} for batch, scale in (("64", 50), ("1", 1))}
    figures = dict.fromkeys(("frechet_to_data", "frechet_to_teacher", "precision", "recall", "content_psnr"), 0.5)
    figures |= {"label": label, "macs": macs, "parameters": 10**5, "content_l1": content_l1, "latency_by_batch": times}
    if content_l1 is None:
        figures["content_psnr"] = None
    return figures | {"frechet_to_teacher_of_draws": [1.0, 2.0]}


def test_students_show_what_the_cut_is_worth():
    rows = {f"{TEACHER} None": row(TEACHER, 10**8, 10.0, None), "aware 0": row("aware", 10**7, 2.0, 0.25)}
    rows["aware 1"] = row("aware", 10**7, 2.0, 0.35)
    where = {"machine": machine("cpu"), "versions": versions(), "content": "faces", "perceptual": "f"}
    document = {"settings": SETTINGS, "rows": rows, "provenance": where, "timed_on": machine("cpu")}
    lines = tables_documents.students(document).splitlines()
    assert lines[0].index("batch 1 ") < lines[0].index("batch 64 ")
    assert "| 1.00× | 10.00 (1.00×, 1.00) | 500.00 (1.00×, 1.00) |" in lines[2] and lines[2].endswith("| – | – |")
    assert "| 10.00× | 2.00 (5.00×, 0.50) |" in lines[3] and "0.3000 ± 0.0707 | 0.50 ± 0.00 dB |" in lines[3]
    assert lines[3].startswith("| aware | 2 |")


def test_published_size():
    figures = {"MACs cut": 10.0, "speed-up": 5.0, "realised share": 0.5}
    case = {"resolution": 32, "batch": 64, "widths": "0.3"}
    times = {"runtime": [0.004] * 3}
    about = {"shape": (64, 3, 32, 32), "bytes": 1, "macs": 64 * 10**9}
    made = make_row("sngan", "runtime", case, times, "cpu", **about, figures=figures)
    table = tables_documents.published([made])
    assert "| 64 | 0.3 | 1.000 | runtime | 4.00 (4.00–4.00) | 10.00× | 5.00× | 0.50 |" in table
