#!/usr/bin/env bash
# Everything about the scan that needs a GPU, in one call of under 10 minutes, from the checkout:
#
#     benchmarks/on_gpu.sh
#
# The GPU tests, `scan.py` with every goal, `scan.py --model`. Logs, JSON and the plot go to $OUT, or benchmarks/results.
# A part that fails, or runs into its limit, does not stop the next; what it had measured is in its JSON.
#
#     ZEROMAMBA_PEERS    folder with clones `VMamba` and `mamba`, built here; either may be missing
#     ZEROMAMBA_WHEELS   folder of wheels that this machine lacks (tyro, typeguard, docstring-parser), installed without a registry
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

out=$(realpath -m "${OUT:-benchmarks/results}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out" "$scratch/peers" "$scratch/site"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$scratch/peers:$scratch/site${PYTHONPATH:+:$PYTHONPATH}"
failed=0

part() { # name, seconds, command...: its output to the terminal and to name.log
    local name=$1 seconds=$2
    shift 2
    echo "== $name (at most $seconds s)"
    timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || { echo "== $name FAILED, status $status (124: it ran into its limit)"; failed=1; }
}

if ! python3 -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
    echo "PyTorch finds no CUDA device here; without one: python benchmarks/scan.py"
    exit 1
fi
if [ -n "${ZEROMAMBA_WHEELS:-}" ]; then
    timeout 40 python3 -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" \
        "$ZEROMAMBA_WHEELS"/*.whl || { echo "== the wheels were not installed"; failed=1; }
fi

# The peers compile while the tests run: neither is timed.
builders=()
if [ -n "${ZEROMAMBA_PEERS:-}" ]; then
    for peer in vmamba:VMamba mamba:mamba; do
        clone=$ZEROMAMBA_PEERS/${peer#*:}
        [ -d "$clone" ] || { echo "no $clone: that peer is left out"; continue; }
        MAX_JOBS=7 timeout --kill-after=10 165 python3 benchmarks/build_peers.py "${peer%:*}" "$clone" \
            "$scratch/peers" >"$out/build-${peer%:*}.log" 2>&1 &
        builders+=("$!")
    done
    if [ -d "$ZEROMAMBA_PEERS/VMamba" ]; then
        export ZEROMAMBA_VMAMBA_REPO=$ZEROMAMBA_PEERS/VMamba
    fi
fi
part tests 150 python3 -m pytest -q -m gpu --continue-on-collection-errors
for builder in "${builders[@]}"; do
    wait "$builder" || { echo "== a peer was not built, status $?: see $out/build-*.log"; failed=1; }
done

part scan 255 python3 benchmarks/scan.py --limit-s 225 --json "$out/scan.json" --plot "$out/scan.png"
part model 105 python3 benchmarks/scan.py --model --limit-s 90 --repeats 10 --json "$out/model.json"
exit "$failed"
