from __future__ import annotations

import importlib
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
LIMITS = {
    "cagc.common.reading": ("MAX_JSON_BYTES", "MAX_JSON_DEPTH", "MAX_INTEGER_DIGITS"),
    "cagc.common.inert_pickle": ("MAX_OPCODES", "MAX_NESTING", "MAX_INTEGER_BITS"),
    "cagc.common.inert_calls": ("MAX_KEY_PARTS",),
    "cagc.common.inert_values": ("MAX_DIMENSIONS", "MAX_EXPANDED_ELEMENTS"),
    "cagc.common.torch_files": ("MAX_ZIP_DIRECTORY_BYTES", "MAX_ZIP_EXPANSION", "MAX_PICKLE_BYTES"),
    "cagc.common.wrappings": ("MAX_TENSORS", "MAX_MODULE_DEPTH", "MAX_WRAPPINGS", "MAX_NETWORKS"),
    "cagc.common.zips": ("MAX_ZIP_ENTRIES", "MAX_IMAGE_ZIP_DIRECTORY_BYTES"),
    "cagc.data.files": ("MAX_EXPANSION", "MAX_FILE_BYTES", "MAX_LABEL_BYTES"),
    "cagc.data.images": ("MAX_PIXELS",),
    "cagc.checkpoints.states": ("MAX_RESOLUTION", "MAX_FILTER_TAPS"),
}


def test_the_limits_on_the_page_are_those_of_the_code():
    page = PAGE.read_text()
    for module, names in LIMITS.items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            assert f"| {value:,} | `{module}.{name}` |" in page, (module, name, value)
