#!/usr/bin/env bash
# The loop on a Slurm cluster with a common file system: for each round one job writes the prompts and an array of N jobs answers and
# judges them, each its part by the array's variables; the next round's first job merges, trains and goes on.
#   examples/slurm.sh CONFIG.toml N ROUNDS [sbatch options, such as --gpus=1 --time=4:00:00]
set -euo pipefail
config=$1 n=$2 rounds=$3
shift 3
after=()
for ((round = 1; round <= rounds; round++)); do
    lead=$(sbatch --parsable "$@" "${after[@]}" --wrap "selfreward run '$config' --resume --until prompts")
    array=$(sbatch --parsable "$@" --dependency="afterok:$lead" --array="1-$n" \
        --wrap "selfreward run '$config'")
    after=(--dependency="afterok:$array")
done
sbatch "$@" "${after[@]}" --wrap "selfreward run '$config' --resume"
