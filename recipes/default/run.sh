#!/usr/bin/env bash
# From a pretrained T5 to the model that comes with the package. Every step leaves something complete and is skipped
# when it is run again; training resumes where it was cut off.
#
#   DATA=folder with corpus/simple.jsonl.zst (documents of Simple English Wikipedia) and tasks/<task>.<split>.jsonl.zst
#   (KILT's form)   WORK=folder for everything made
#   STEPS=5 tries the whole chain with so many steps a stage (in a WORK of its own); without it a stage has its file's
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
: "${DATA:?name the folder of corpora and tasks}" "${WORK:?name a folder to work in}"
memstore=${MEMSTORE:-memstore} python=${PYTHON:-python3}
export DATA WORK OMP_WAIT_POLICY=passive # two threads that wait by spinning slow each other down on a shared machine

mkdir -p "$WORK"
[ -e "$WORK/t5" ] || $python pretrained.py --out "$WORK/t5" --check
# Candidates are found by BM25, which no model takes part in: the smallest model makes a store quickly.
[ -e "$WORK/candidates" ] || $memstore new --config candidates.json --tokenizer "$WORK/t5" --out "$WORK/candidates"
$memstore build --corpus "$DATA/corpus/simple.jsonl.zst" --out "$WORK/first-store" --model "$WORK/candidates"
tasks=()
for task in nq squad webq fever zsre trex hotpotqa; do
  for split in train dev; do
    file="$DATA/tasks/$task.$split.jsonl.zst"
    [ -e "$file" ] && tasks+=(--task "$task.$split=$file")
  done
done
$memstore prepare --store "$WORK/first-store" --model "$WORK/candidates" --out "$WORK/cache" --k 20 --no-pretrain \
  "${tasks[@]}"
for stage in 1 2 3 4 5 6; do
  sed -e "s#@WORK@#$WORK#g" ${STEPS:+-e "s/^steps = .*/steps = $STEPS/"} "stage-$stage.toml" >"$WORK/stage-$stage.toml"
  $memstore train --config "$WORK/stage-$stage.toml"
  $memstore train --config "$WORK/stage-$stage.toml" --plot
done
[ -e "$WORK/model" ] || $memstore convert "$WORK/stage-6/last" --out "$WORK/model" --weights int8
echo "the model is in $WORK/model"
