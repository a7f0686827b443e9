#!/usr/bin/env bash
# From plain text to the model that comes with the package. Every step leaves something complete and is skipped when
# it is run again; training resumes where it was cut off.
#
#   DATA=folder with corpus/*.jsonl.zst and tasks/<task>.<split>.jsonl.zst   WORK=folder for everything made
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
: "${DATA:?name the folder of corpora and tasks}" "${WORK:?name a folder to work in}"
memstore=${MEMSTORE:-memstore}
export DATA WORK OMP_WAIT_POLICY=passive # two threads that wait by spinning slow each other down on a shared machine

mkdir -p "$WORK"
[ -e "$WORK/tokenizer" ] || $memstore tokenizer --corpus "$DATA/corpus/simple.jsonl.zst" --every 2 \
  --lowercase --vocab-size 16384 --out "$WORK/tokenizer"
# Candidates are found by BM25, which no model takes part in: the smallest model makes a store quickly.
[ -e "$WORK/candidates" ] || $memstore new --config candidates.json --tokenizer "$WORK/tokenizer" --out "$WORK/candidates"
$memstore build --corpus "$DATA/corpus/simple.jsonl.zst" --out "$WORK/first-store" --model "$WORK/candidates"
$memstore prepare --store "$WORK/first-store" --model "$WORK/candidates" --out "$WORK/cache-text" \
  --pretrain-passages 80000 --neighbours 6
tasks=()
for task in nq squad webq fever zsre trex hotpotqa; do
  for split in train dev; do
    file="$DATA/tasks/$task.$split.jsonl.zst"
    [ -e "$file" ] && tasks+=(--task "$task.$split=$file")
  done
done
$memstore prepare --store "$WORK/first-store" --model "$WORK/candidates" --out "$WORK/cache-tasks" --k 20 \
  --pretrain-most 80000 --neighbours 5 "${tasks[@]}"
[ -e "$WORK/vectors.npy" ] || $memstore vectors --cache "$WORK/cache-tasks" --width 192 --out "$WORK/vectors.npy"
for stage in 1 2 3 4 5 6 7 8 9 10 11; do
  sed "s#@WORK@#$WORK#g" "stage-$stage.toml" >"$WORK/stage-$stage.toml"
  $memstore train --config "$WORK/stage-$stage.toml"
  $memstore train --config "$WORK/stage-$stage.toml" --plot
done
$memstore average "$WORK/stage-11/last" "$WORK/stage-9/last" --out "$WORK/model"
echo "the model is in $WORK/model"
