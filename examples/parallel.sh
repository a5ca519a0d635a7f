#!/usr/bin/env bash
# The loop with a round's answers and verdicts written by N processes on this machine (GNU parallel):
#   examples/parallel.sh CONFIG.toml N
# With one GPU for each, set what your driver reads to pick one, or give every process its --device. It can be started again after
# any failure: what is finished stays.
set -euo pipefail
config=$1 n=$2
while true; do
    state=$(selfreward run "$config" --resume --until prompts --json)
    grep -q '"finished": *true' <<<"$state" && break
    seq "$n" | parallel --halt now,fail=1 selfreward run "$config" --shard "{}/$n"
done
