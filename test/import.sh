#!/usr/bin/env bash
# Fills a Java broker, imports its store (killed on its way and run again), and lets real clients find everything again.
#   CAIRN_REFERENCE=DIR test/import.sh [MESSAGES]
# DIR has the scripts up.sh and down.sh that start and stop the Java broker (file store). RMQ_HOME, NAMESRV and BROKER say where it
# keeps its things and where it listens, CAIRN_TEST_BIN which cairn binary is tried.
set -euo pipefail
cd "$(dirname "$0")"
reference=${CAIRN_REFERENCE:?the folder of the scripts that start the Java broker}
count=${1:-20000}
export RMQ_HOME=${RMQ_HOME:-${TMPDIR:-/tmp}/rmq} NAMESRV=${NAMESRV:-127.0.0.1:9876}
work=$(mktemp -d)
bin=${CAIRN_TEST_BIN:-}
if [ -z "$bin" ]; then bin=$work/cairn; (cd .. && go build -o "$bin" ./cmd/cairn); fi
pid=
trap 'bash "$reference/down.sh" >/dev/null; [ -z "$pid" ] || kill $pid 2>/dev/null; rm -rf "$work"' EXIT
run() { # TEST NAME-SERVER BROKER
  (cd clientgov2 && CAIRN_IMPORT_NAMESRV=$2 CAIRN_IMPORT_BROKER=$3 CAIRN_IMPORT_COUNT=$count CAIRN_IMPORT_NOTES=$work/notes.json \
    go test -count=1 -timeout 10m -run "^$1\$" -v .) 2>&1 | grep -v -e '^=== RUN' -e 'level=error'
}

echo "-- a Java broker gets $count messages"
FRESH=1 PROXY=${PROXY:-none} HEAP=${HEAP:-1g} STORE=$work/store EXTRA="mappedFileSizeCommitLog=${FILE_SIZE:-67108864}" bash "$reference/up.sh" file
run TestImportFill "$NAMESRV" "${BROKER:-127.0.0.1:10911}"
refusal=$("$bin" import "$work/store" --data "$work/none" 2>&1 || true)
case $refusal in *'still runs'*) ;; *) echo "a store in use was not refused: $refusal"; exit 1 ;; esac
bash "$reference/down.sh" ${DOWN:-}

echo "-- import, killed on its way"
for wait in ${KILLS:-0.05 0.1 0.3}; do
  "$bin" import "$work/store" --data "$work/data" >"$work/import.log" 2>&1 &
  pid=$!
  sleep "$wait"
  if kill -9 $pid 2>/dev/null; then echo "killed after $wait s: $(tail -1 "$work/import.log")"; else echo "it was faster than $wait s"; fi
  wait $pid 2>/dev/null || true
done
pid=
"$bin" import "$work/store" --data "$work/data"
"$bin" debug verify --data "$work/data"

echo "-- find it again"
"$bin" serve --data "$work/data" --advertise 127.0.0.1 --nameserver 127.0.0.1:0 --remoting 127.0.0.1:0 --grpc 127.0.0.1:0 --http off \
  --log-format json 2>"$work/cairn.log" &
pid=$!
for _ in $(seq 300); do grep -q '"message":"cairn is ready"' "$work/cairn.log" && break; kill -0 $pid || { cat "$work/cairn.log"; exit 1; }; sleep 0.1; done
address() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*"message":"cairn is ready".*/\1/p' "$work/cairn.log"; }
run TestImportFind "$(address nameserver)" "$(address remoting)"
kill $pid
wait $pid
pid=
"$bin" debug verify --data "$work/data"
