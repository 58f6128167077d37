#!/usr/bin/env bash
# Everything about the scan that needs a GPU, in one call of under 10 minutes, from the checkout:
#
#     benchmarks/on_gpu.sh
#
# Every kernel compiled, on all cores; the GPU tests; `scan.py` with every goal; `scan.py --model`. What is compiled first
# is what the others launch, but for small kernels and what comes last: the 1-d cut, VMamba-T and -B. One kernel after
# another, they would take minutes for it. Logs, JSON and, where there is matplotlib, the plot go to $OUT, or
# benchmarks/results.
# A part that fails, or runs into its limit, does not stop the next; what it had measured is in its JSON.
#
#     ZEROMAMBA_PEERS    folder with clones `VMamba` and `mamba`, built here; either may be missing
#     ZEROMAMBA_COMMIT   what was checked out, where the files travel without git
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

out=$(realpath -m "${OUT:-benchmarks/results}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out" "$scratch/peers"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$scratch/peers${PYTHONPATH:+:$PYTHONPATH}"
failed=0

part() { # name, seconds, command...: its output to the terminal and to name.log
    local name=$1 seconds=$2
    shift 2
    echo "== $name (at most $seconds s)"
    timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || { echo "== $name FAILED, status $status (124: it ran into its limit)"; failed=1; }
}

sm=$(python3 -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || {
    echo "PyTorch finds no CUDA device here; without one: python benchmarks/scan.py"
    exit 1
}

# The peers compile beside the kernels, which go first, and the tests: none of it is timed.
rm -f "$out/build.log"
builders=()
if [ -n "${ZEROMAMBA_PEERS:-}" ]; then
    for peer in vmamba:VMamba mamba:mamba; do
        clone=$ZEROMAMBA_PEERS/${peer#*:}
        [ -d "$clone" ] || { echo "no $clone: that peer is left out"; continue; }
        MAX_JOBS=7 nice timeout --kill-after=10 290 python3 benchmarks/build_peers.py "${peer%:*}" "$clone" \
            "$scratch/peers" >>"$out/build.log" 2>&1 &
        builders+=("$!")
    done
    if [ -d "$ZEROMAMBA_PEERS/VMamba" ]; then
        export ZEROMAMBA_VMAMBA_REPO=$ZEROMAMBA_PEERS/VMamba
    fi
fi
part compile 200 python3 benchmarks/ahead_of_time.py --sm "$sm" --json
# -W default: a warning of another PyTorch's is no failure here
part tests 100 python3 -m pytest tests/kernels -v --tb=short -W default -m gpu
for builder in "${builders[@]}"; do
    wait "$builder" || { echo "== a peer was not built, status $?: see $out/build.log"; failed=1; }
done

plot=()
python3 -c 'import matplotlib' 2>/dev/null && plot=(--plot "$out/scan.png") || echo "no matplotlib here: no plot"
part scan 180 python3 benchmarks/scan.py --limit-s 150 --counted "$out/compile.log" --json "$out/scan.json" "${plot[@]}"
part model 90 python3 benchmarks/scan.py --model --limit-s 70 --repeats 10 --json "$out/model.json"
exit "$failed"
