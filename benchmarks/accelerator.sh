#!/usr/bin/env bash
# Where does this package stand on one accelerator? Everything that shows it, in about ten minutes:
#
#     bash benchmarks/accelerator.sh FOLDER
#
# leaves in FOLDER the versions (doctor.json), the update's time and memory for every size, observation and type of
# numbers (updates.jsonl), for several updates in one call and without command buffers (calls.jsonl), the slowest
# kernels (kernels.jsonl), the numbers compared with recordings of the reference (parity.txt), what each step said
# (log.txt), and page.md, the tables of all. A step that fails is said, and the others go on.
#
# Variables make it smaller or larger: SIZES, OBSERVATIONS, DTYPES, CALLS (updates in one call), REPEATS, OPTIONS (more
# flags of train_step.py, such as --batch-size). REFERENCE, a checkout of danijar/dreamerv3 that starts in this
# environment (reference_speed.py says how), is timed beside ours.
set -uo pipefail
[ $# -eq 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit
sizes=${SIZES-"1m 12m 200m"} observations=${OBSERVATIONS-"proprio vision"} dtypes=${DTYPES-"bfloat16 float32"}
calls=${CALLS-"1 4 16"} repeats=${REPEATS-20} options=${OPTIONS-} failed=0
first=${sizes%% *}
rm -f "$out"/{updates,calls,kernels}.jsonl "$out"/{log,parity}.txt "$out"/{doctor.json,page.md}

# step FILE COMMAND...: appends what it prints to FILE
step() {
    local file=$1 began=$SECONDS
    shift
    printf '%4d s  %s\n' "$SECONDS" "$*" >&2
    if ! "$@" >>"$out/$file" 2>>"$out/log.txt"; then
        failed=$((failed + 1))
        echo "        failed after $((SECONDS - began)) s: $(tail -n 1 "$out/log.txt")" >&2
    fi
}

update() { python benchmarks/train_step.py --repeats "$repeats" $options "$@"; }
parity() { python benchmarks/parity "$@" 2>&1 >/dev/null; }
without_command_buffers() { XLA_FLAGS="${XLA_FLAGS-} --xla_gpu_enable_command_buffer=" "$@"; }

step doctor.json python -m dreamer_jax doctor --json
for size in $sizes; do for observation in $observations; do for dtype in $dtypes; do
    step updates.jsonl update --size "$size" --observation "$observation" --dtype "$dtype"
done; done; done
for count in $calls; do
    step calls.jsonl update --size "$first" --dtype bfloat16 --updates-per-dispatch "$count"
done
step calls.jsonl without_command_buffers update --size "$first" --dtype bfloat16
step kernels.jsonl python benchmarks/kernels.py --size "$first" --dtype bfloat16 $options
# Matrix products in full float32: an NVIDIA device rounds them to TF32 otherwise.
JAX_DEFAULT_MATMUL_PRECISION=highest step parity.txt parity tests/fixtures/train-{proprio_rc1,mixed}.npz
if [ -n "${REFERENCE-}" ]; then
    for dtype in $dtypes; do
        step updates.jsonl python benchmarks/reference_speed.py "$REFERENCE" --size "$first" --dtype "$dtype" \
            --repeats "$repeats" $options
    done
fi

table() { # FILE COLUMN...: nothing where no step has left a line
    [ -s "$out/$1" ] || return 0
    printf '\n'
    python benchmarks/report.py "$out/$1" --columns "${@:2}"
}
{
    python -c 'import json, sys; from dreamer_jax.profiling.speed import machine; x = machine()
print(x["device"] + ":", ", ".join(f"{k} {v}" for k, v in x["versions"].items()))'
    columns="program observation size dtype update_ms transitions_per_s share_of_peak compiled_memory_mb compile_s"
    table updates.jsonl $columns
    table calls.jsonl size updates_per_dispatch xla_flags update_ms transitions_per_s compile_s
    table kernels.jsonl operation calls ms share traced_ms where
    printf '\nParity, without TF32:\n\n'
    sed 's/^/- /' "$out/parity.txt"
} >"$out/page.md" 2>>"$out/log.txt"
echo "$SECONDS s, $failed steps failed: $out/page.md" >&2
[ "$failed" -eq 0 ]
