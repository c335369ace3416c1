#!/bin/sh
# The study on one GPU: some processes share its steps, each of which is done once; then the report.
# Stop it at any time: the same command goes on. Settings after the script's name go to every process.
set -eu
cd "$(dirname "$0")/../.."
processes=${PROCESSES:-6}
logs=${LOGS:-work/study-logs}
mkdir -p "$logs"
study() {
    python -m icon_repro experiment=study cluster=gpu cluster.executor=inline cluster.gradient_checkpointing=false \
        cluster.score_batch_tokens=65536 cluster.checkpoint_steps=0 "$@"
}
study action=plan "$@" > "$logs/plan.txt"
tail -n 8 "$logs/plan.txt"
number=1
while [ "$number" -le "$processes" ]; do
    study "$@" > "$logs/process-$number.txt" 2>&1 &
    number=$((number + 1))
done
wait
study action=report "$@"
