"""Compiles the runtime to WebAssembly, for the page of ``cagc export --web``.

    pip install ziglang==0.17.1
    python csrc/web/build.py                    # by zig's Clang, about a minute
    python csrc/web/build.py --compiler em++    # by emscripten instead

It writes the variants and ``build.json``, which says how they were made, to ``cagc/export/web/wasm``. They are part of
the package, so that its users need no compiler; a test compares ``inputs`` with what the sources give.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "cagc" / "export" / "web" / "wasm"
HEADER = ROOT / "csrc" / "include" / "cagc" / "c_api.h"

VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "cagc_kernels" / "__init__.py").read_text())[1]

SOURCES = ("c_api.cpp", "flat_file.cpp", "flat_student.cpp", "cpu/packing.cpp", "cpu/synthesis.cpp",
           "cpu/synthesis_kernels.cpp", "cpu/isa/levels.cpp")  # fmt: skip
FLAGS = ("-O3", "-std=c++17", "-fno-exceptions", "-fno-math-errno", "-fno-trapping-math", "-DNDEBUG", "-g0",
         f'-DCAGC_VERSION="{VERSION}"')  # fmt: skip
LINK = ("-Wl,--strip-all",)

# What each variant adds: flags, the file of the threads, and what the linker is told. Products and sums fuse where
# relaxed SIMD has an instruction for both. The C library, too, is built with the features that -mcpu names.
VARIANTS = {
    "simd": (("-msimd128",), "cpu/team.cpp", ()),
    "relaxed": (("-msimd128", "-mrelaxed-simd", "-ffp-contract=fast"), "cpu/team.cpp", ()),
    "threads": (
        ("-mcpu=generic+simd128+relaxed_simd+atomics+bulk_memory", "-ffp-contract=fast"),
        "web/team.cpp",
        (
            "-Wl,--shared-memory,--import-memory,--initial-memory=67108864,--max-memory=2147483648",
            "-Wl,--export=cagc_web_worker,--export=cagc_web_workers,--export=__stack_pointer",
            "-Wl,--export=__wasm_init_tls,--export=__tls_size,--export=__tls_align",
        ),
    ),
}
ZIG = (sys.executable, "-m", "ziglang", "c++", "-target", "wasm32-wasi")
ZIG_LINK = ("-mexec-model=reactor", "-Wl,-z,stack-size=1048576")


def exported() -> list[str]:
    """Functions of the C interface, but for that which opens a file by its name, and memory for the page's buffers."""
    names = re.findall(r"^CAGC_API [^;(]*?(cagc_\w+)\(", HEADER.read_text(), re.MULTILINE)
    return [*(name for name in names if name != "cagc_open"), "malloc", "free"]


def inputs() -> list[Path]:
    """The sources of all variants and every header of the project that they include."""
    pending = [ROOT / "csrc" / name for name in (*SOURCES, *(team for _, team, _ in VARIANTS.values()))]
    found: set[Path] = set()
    while pending:
        path = pending.pop().resolve()
        if path in found:
            continue
        found.add(path)
        for name in re.findall(r'#\s*include\s*"([^"]+)"', path.read_text()):
            candidates = [path.parent / name, ROOT / "csrc" / "include" / name]
            pending += [candidate for candidate in candidates if candidate.is_file()][:1]
    return sorted(found)


def digest() -> str:
    """SHA-256 of the inputs without their comments, and of the flags."""
    parts = [json.dumps([FLAGS, LINK, ZIG[3:], ZIG_LINK, VARIANTS, exported()])]
    for path in inputs():
        parts += [path.relative_to(ROOT).as_posix(), without_comments(path.read_text())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def without_comments(text: str) -> str:
    """C++ code without comments and without the white space around lines, as editing them changes nothing."""
    kept = re.sub(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', lambda found: found[1] or " ", text, flags=re.DOTALL)
    return "\n".join(line for line in map(str.strip, kept.splitlines()) if line)


def compile_variant(name: str, out: Path, scratch: Path) -> list[str]:
    """Compile and link one variant by zig; return the commands, as they would be typed in the root of the checkout."""
    flags, team, link = VARIANTS[name]
    objects, commands = [], []
    for source in (*SOURCES, team):
        objects.append(str(scratch / f"{name}-{source.replace('/', '-')}.o"))
        commands.append([*ZIG, *FLAGS, *flags, "-Icsrc/include", "-c", f"csrc/{source}", "-o", objects[-1]])
    exports = "-Wl," + ",".join(f"--export={function}" for function in exported())
    commands.append([*ZIG, "-O3", *flags, *ZIG_LINK, *LINK, exports, *link, *objects, "-o", str(out)])
    return run(commands, scratch)


def compile_by_emscripten(compiler: str, name: str, out: Path, scratch: Path) -> list[str]:
    """As :func:`compile_variant`, by em++, in one command."""
    flags, team, _ = VARIANTS[name]
    sources = [f"csrc/{source}" for source in (*SOURCES, team)]
    exports = ",".join(f"_{function}" for function in exported())
    options = ["--no-entry", "-sSTANDALONE_WASM=1", "-sALLOW_MEMORY_GROWTH=1", f"-sEXPORTED_FUNCTIONS={exports}"]
    return run([[compiler, *FLAGS, *flags, "-Icsrc/include", *options, *sources, "-o", str(out)]], scratch)


def run(commands: list[list[str]], scratch: Path) -> list[str]:
    for command in commands:
        subprocess.run(command, cwd=ROOT, check=True)
    return [shlex.join(command).replace(sys.executable, "python").replace(f"{scratch}/", "") for command in commands]


def version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    """Write the variants and build.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="zig", help="zig, or the path of em++, which makes no variant of threads")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    by_zig = options.compiler == "zig"
    record = {"inputs": digest(), "compiler": version(ZIG[:4] if by_zig else (options.compiler,)), "variants": {}}
    if by_zig:
        found = subprocess.run([*ZIG[:3], "version"], capture_output=True, text=True, check=True)
        record["compiler"] = f"zig {found.stdout.strip()}, {record['compiler']}"
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in VARIANTS if by_zig else ("simd", "relaxed"):
            out, folder = options.out.resolve() / f"{name}.wasm", Path(scratch)
            if by_zig:
                commands = compile_variant(name, out, folder)
            else:
                commands = compile_by_emscripten(options.compiler, name, out, folder)
            out.chmod(0o644)  # the linker makes it executable
            data = out.read_bytes()
            record["variants"][name] = {
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
                "commands": [command.replace(str(out), out.name) for command in commands],
            }
            print(f"{out}: {len(data)} bytes")
    (options.out / "build.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
