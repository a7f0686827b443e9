#!/usr/bin/env bash
# Checks the images with a real Docker engine: builds both, builds a store from the bundled sample into a volume,
# serves it, waits until the server is healthy and ready, asks one question through the published port, and says
# who runs and how large the images are. Removes its containers, volumes and tags; needs docker compose and curl.
#
#   docker/check.sh
#
# TORCH_INDEX_URL and EXTRAS go to the image build (docker/Dockerfile). WHEELS, a folder, becomes its context `wheels`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export COMPOSE_PROJECT_NAME="memstore-check-$$" MEMSTORE_TAG="check-$$" MEMSTORE_PORT=0
unset MEMSTORE_CORPUS MEMSTORE_MODELS
compose=(docker compose -f docker-compose.yml)
scratch=$(mktemp -d)

finish() {
  local status=$?
  [ "$status" -eq 0 ] || "${compose[@]}" logs --tail 50 server >&2 || true
  "${compose[@]}" --profile build down --volumes --timeout 5 >/dev/null 2>&1 || true
  docker image rm "memstore-server:$MEMSTORE_TAG" "memstore-builder:$MEMSTORE_TAG" >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap finish EXIT

say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }
fail() { printf 'docker/check.sh: %s\n' "$*" >&2; exit 1; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || fail "$what did not come"
    sleep 1
  done
  say "$what"
}

if [ -n "${WHEELS:-}" ]; then
  for service in server builder; do
    printf '  %s:\n    build:\n      additional_contexts:\n        wheels: "%s"\n' "$service" "$WHEELS"
  done | sed '1i services:' >"$scratch/wheels.yml"
  compose+=(-f "$scratch/wheels.yml")
fi

"${compose[@]}" --profile build build --quiet
for image in builder server; do
  name="memstore-$image:$MEMSTORE_TAG"
  say "image $name: $(docker image inspect -f '{{.Size}}' "$name" | awk '{printf "%.0f MB", $1 / 1e6}')"
  uid=$(docker run --rm --entrypoint id "$name" -u)
  [ "$uid" -ne 0 ] || fail "$name runs as root"
  ! docker run --rm --entrypoint sh "$name" -c 'command -v cc gcc g++ clang' || fail "$name has a compiler"
done
say "both run as user $uid, and have no compiler"

"${compose[@]}" run --rm -T builder </dev/null
say "the builder has written a store"
"${compose[@]}" run --rm -T builder verify /store </dev/null
say "and it verifies"

"${compose[@]}" up --detach --quiet-pull --no-build server >/dev/null 2>&1
container=$("${compose[@]}" ps --quiet server)
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$container")" = healthy ]; }
wait_for 180 "the server is healthy" healthy
url="http://$("${compose[@]}" port server 8080)"
wait_for 120 "the server is ready at $url" curl --fail --silent "$url/ready"

answer=$(curl --fail-with-body --silent --show-error "$url/answer" -H 'Content-Type: application/json' \
  -d '{"question": "Who discovered penicillin?", "retrieve_k": 20, "keep_k": 5, "max_new_tokens": 8}') \
  || fail "no answer: $answer"
printf '%s\n' "$answer" | head -c 600
echo
case $answer in *'"passages":[{'*) ;; *) fail "the answer names no passages" ;; esac
say "answered through the published port"

docker exec "$container" sh -c '! touch /store/x 2>/dev/null && ! touch /home/memstore/x 2>/dev/null' \
  || fail "the server may write where it should only read"
"${compose[@]}" stop --timeout 20 server >/dev/null 2>&1
code=$(docker inspect -f '{{.State.ExitCode}}' "$container")
[ "$code" -eq 0 ] || fail "the server left with exit code $code when told to stop"
say "and stopped when told to"
say "passed"
