#!/usr/bin/env bash
# From a pretrained T5 to the model that comes with the package, which is stage 6's, and on: stage 7 has not been run as
# it stands (LOG.md). Every step leaves something complete and is skipped when it is run again; training resumes where it
# was cut off.
#
#   DATA=folder with corpus/simple.jsonl.zst (documents of Simple English Wikipedia) and tasks/<task>.<split>.jsonl.zst
#   (KILT's form)   WORK=folder for everything made
#   STEPS=5 tries the whole chain with so many steps a stage (in a WORK of its own); without it a stage has its file's
#   PASSAGES=20000 is how many passages questions are asked about
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
tasks=() left_out=()
for task in nq squad webq fever zsre trex hotpotqa; do
  for split in train dev; do
    file="$DATA/tasks/$task.$split.jsonl.zst"
    [ -e "$file" ] || continue
    tasks+=(--task "$task.$split=$file")
    [ "$split" = train ] || left_out+=(--leave-out "$file")
  done
done
prepare() {
  $memstore prepare --store "$WORK/first-store" --model "$WORK/candidates" --k 20 --no-pretrain "${tasks[@]}" "$@"
}
train() {
  sed -e "s#@WORK@#$WORK#g" ${STEPS:+-e "s/^steps = .*/steps = $STEPS/"} "$1.toml" >"$WORK/$1.toml"
  $memstore train --config "$WORK/$1.toml"
  $memstore train --config "$WORK/$1.toml" --plot
}

prepare --out "$WORK/cache"
for stage in 1 2 3 4 5 6; do
  train "stage-$stage"
done
# A model learns to ask, and asks about pages that no development question is about; what the reader answers again is
# trained on, beside the other questions, whose passages and answers the reader marks.
$memstore prepare-asker --cache "$WORK/cache" --model "$WORK/candidates" --out "$WORK/asker-cache" \
  --style ask=squad.train --style search=nq.train --style search=webq.train
train asker
$memstore generate-questions --store "$WORK/first-store" --asker "$WORK/asker/last" --reader "$WORK/stage-6/last" \
  --out "$WORK/asked" --passages "${PASSAGES:-20000}" --style ask=6 --style search=4 "${left_out[@]}"
prepare --out "$WORK/asked-cache" --task "made.train=$WORK/asked/questions.jsonl" --asked made.train
$memstore label --cache "$WORK/asked-cache" --out "$WORK/labelled" --model "$WORK/stage-6/last" \
  --set nq.train --set squad.train --set trex.train --set zsre.train
train stage-7
[ -e "$WORK/model" ] || $memstore convert "$WORK/stage-7/last" --out "$WORK/model" --weights int8
echo "the model is in $WORK/model"
