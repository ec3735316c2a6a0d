#!/usr/bin/env bash
# Everything worth running when a GPU is at hand:
#
#   benchmarks/gpu_runs.sh OUT [--only build|tests|tune|ops|generators|train] [--select EXPRESSION] [--dry] [--peers DIR]
#
# builds the extension, runs the tests that need a GPU, times the tiles of Triton's convolutions, and runs the
# benchmarks with the fastest. Rows (JSON Lines) go to OUT/DEVICE, to be copied to benchmarks/results/DEVICE, and the
# tiles to OUT/configs, to be copied to cagc_kernels/triton/configs. Each part ends by itself: one that fails is named,
# and the rest runs. --only takes several parts, as "tune generators"; --select is for pytest's -k in the benchmarks,
# as "256 and float16". --dry walks the same road on the CPU, on the smallest cases.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '4p' "$0" | cut -c5- >&2; exit 2; }
out="" only="" dry="" peers=() select=()
while [ $# -gt 0 ]; do
  case "$1" in
    --only) only="${2:-}"; shift 2 || usage ;;
    --select) select=(-k "${2:?--select needs an expression}"); shift 2 ;;
    --dry) dry=1; shift ;;
    --peers) peers=(--peers "${2:?--peers needs a folder}"); shift 2 ;;
    -*) echo "gpu_runs.sh: unknown option $1" >&2; usage ;;
    *) [ -z "$out" ] || usage; out="$1"; shift ;;
  esac
done
[ -n "$out" ] || usage
for name in $only; do
  case "$name" in build | tests | tune | ops | generators | train) ;; *)
    echo "gpu_runs.sh: --only got '$name', expected build, tests, tune, ops, generators or train" >&2
    exit 2 ;;
  esac
done
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
# Tuning goes on from what is committed for this environment, each winner is written at once, and the benchmarks read
# them there.
export CAGC_TRITON_CONFIGS="$out/configs"
mkdir -p "$CAGC_TRITON_CONFIGS"
cp -n cagc_kernels/triton/configs/*.json "$CAGC_TRITON_CONFIGS" 2>/dev/null || true
python=${PYTHON:-python3}

facts=$("$python" -c '
from benchmarks.harness import default_device
from benchmarks.results import device_folder
print(default_device(), device_folder(default_device()))') || exit 1
device=${facts#* }
if [ -z "$dry" ] && [ "${facts%% *}" != cuda ]; then
  echo "gpu_runs.sh: PyTorch sees no CUDA device; --dry runs the same road on the CPU" >&2
  exit 1
fi
quick=${dry:+--quick}
failed=()

part() { # part NAME COMMAND...: unless another one was asked for
  local name=$1
  shift
  [ -z "$only" ] || [[ " $only " == *" $name "* ]] || return 0
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" 2>&1 | tee -a "$out/$name.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || [ "$status" -eq 5 ] || failed+=("$name ($status)") # 5: pytest had nothing to run
}
bench() { "$python" -m pytest -q --results "$out/$device" $quick ${peers[@]+"${peers[@]}"} ${select[@]+"${select[@]}"} "$@"; }
sanitize() {
  if command -v compute-sanitizer >/dev/null; then
    compute-sanitizer --error-exitcode 9 "$python" -m pytest -q -m gpu tests/kernels
  else
    echo "compute-sanitizer is not installed: skipped"
  fi
}

if [ -n "$dry" ]; then
  part build "$python" -m cagc_kernels.doctor
else
  part build env CAGC_CUDA=ON "$python" -m pip install -q --no-deps -e .
  part build "$python" -m cagc_kernels.doctor
fi
part tests "$python" -m pytest -q -m gpu tests
[ -n "$dry" ] || part tests sanitize
[ -n "$dry" ] || part tune "$python" -m cagc_kernels.triton.gemm.tuning
part ops bench benchmarks/bench_ops.py benchmarks/bench_peers.py benchmarks/bench_sparse.py
part generators bench benchmarks/bench_generators.py ${dry:+--only runtime}
for widths in full "0.3 by 8"; do
  part generators "$python" -m benchmarks.layers --widths "$widths" ${dry:+--resolution 64 --repeats 1} --results "$out/$device"
done
part train bench benchmarks/bench_training.py benchmarks/bench_scores.py
# Two students of the same teacher, seed and length, content-aware and not.
part train "$python" -c 'from cagc.cli import main; main()' compress --baseline l1-out --overwrite --out "$out/compress" \
  ${dry:+--steps 1 --samples 10 --evaluation-samples 4}

printf '\nrows in %s:\n' "$out/$device"
wc -l "$out/$device"/*.jsonl 2>/dev/null
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
