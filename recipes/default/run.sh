#!/usr/bin/env bash
# From plain text to the model that comes with the package. Every step leaves something complete and is skipped when
# it is run again; training resumes where it was cut off.
#
#   DATA=folder with corpus/simple.jsonl.zst and corpus/english_core.jsonl.zst (documents of Simple English Wikipedia, and
#   some of English Wikipedia) and tasks/<task>.<split>.jsonl.zst (KILT's form)   WORK=folder for everything made
#   STEPS=5 tries the whole chain with so many steps a stage (in a WORK of its own); without it a stage has its file's
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
# Questions made of sentences: answered from pages that say the same elsewhere, and (others of them) from their own.
seed=0
for kind in cross own; do
  seed=$((seed + 1))
  [ -e "$WORK/$kind.jsonl.gz" ] || $memstore questions --corpus "$DATA/corpus/simple.jsonl.zst" \
    --corpus "$DATA/corpus/english_core.jsonl.zst" --every 8 --seed "$seed" --out "$WORK/$kind.jsonl.gz"
done
$memstore prepare --store "$WORK/first-store" --model "$WORK/candidates" --out "$WORK/cache-made" --k 20 \
  --pretrain-passages 400000 --pretrain-most 280000 --neighbours 4 "${tasks[@]}" \
  --task "cross.train=$WORK/cross.jsonl.gz" --supported cross.train --elsewhere cross.train \
  --task "own.train=$WORK/own.jsonl.gz" --supported own.train
[ -e "$WORK/vectors.npy" ] || $memstore vectors --cache "$WORK/cache-tasks" --width 192 --out "$WORK/vectors.npy"
mean() { # mean OUT CHECKPOINT... [--weight W...]: made once
  [ -e "$WORK/$1" ] || (cd "$WORK" && $memstore average "${@:2}" --out "$1")
}
for stage in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  case $stage in
    12) mean mean-11 stage-11/last stage-9/last ;;
    14) mean start-14 stage-12/last mean-11 ;;
    15) mean start-15 stage-12/last stage-13/last mean-11 ;;
  esac
  sed -e "s#@WORK@#$WORK#g" ${STEPS:+-e "s/^steps = .*/steps = $STEPS/"} "stage-$stage.toml" >"$WORK/stage-$stage.toml"
  $memstore train --config "$WORK/stage-$stage.toml"
  $memstore train --config "$WORK/stage-$stage.toml" --plot
done
mean model stage-14/last stage-15/last mean-11 --weight 0.3 --weight 0.25 --weight 0.45
echo "the model is in $WORK/model"
