#!/usr/bin/env bash
# Fills a Java broker, imports its store (killed on its way and run again), and lets real clients of both protocols find everything
# again. Then the other way: a Java broker starts with the topics, groups and offsets that Cairn exports.
#   CAIRN_REFERENCE=DIR test/import.sh [MESSAGES]
# DIR has the scripts up.sh, down.sh and mqadmin.sh of the Java broker (file store). RMQ_HOME, NAMESRV, BROKER and PROXY_ADDR (gRPC) say
# where it keeps its things and where it listens, CAIRN_TEST_BIN which cairn binary is tried.
set -euo pipefail
cd "$(dirname "$0")"
reference=${CAIRN_REFERENCE:?the folder of the scripts that start the Java broker}
count=${1:-20000}
export RMQ_HOME=${RMQ_HOME:-${TMPDIR:-/tmp}/rmq} NAMESRV=${NAMESRV:-127.0.0.1:9876}
work=$(mktemp -d)
bin=${CAIRN_TEST_BIN:-}
if [ -z "$bin" ]; then bin=$work/cairn; (cd .. && go build -o "$bin" ./cmd/cairn); fi
export CAIRN_TEST_BIN=$bin
(cd clientgov2 && go test -c -o "$work/remoting.test" .)
(cd system && go test -c -o "$work/grpc.test" .)
pid=
trap 'bash "$reference/down.sh" >/dev/null; [ -z "$pid" ] || kill $pid 2>/dev/null; rm -rf "$work"' EXIT
run() { # remoting|grpc TEST NAME-SERVER ADDRESS
  CAIRN_IMPORT_NAMESRV=$3 CAIRN_IMPORT_BROKER=$4 CAIRN_IMPORT_GRPC=$4 CAIRN_IMPORT_COUNT=$count CAIRN_IMPORT_NOTES=$work/notes.json \
    CAIRN_IMPORT_POPS=$work/pops.json "$work/$1.test" -test.timeout 15m -test.run "^$2\$" -test.v 2>&1 | grep -v -e '^=== RUN' -e 'level=error'
}
java_up() { # until its name server knows the broker
  HEAP=${HEAP:-1g} bash "$reference/up.sh" file
  for _ in $(seq 100); do "$bin" group list -n "$NAMESRV" >/dev/null 2>&1 && return; sleep 0.2; done
  echo "the broker did not register"; return 1
}
measured() { # what a command takes, where the machine can tell
  if [ -x /usr/bin/time ]; then /usr/bin/time -f 'it took %e s, %U s of CPU and %M KiB' "$@"; else "$@"; fi
}

echo "-- a Java broker gets $count messages"
extra="mappedFileSizeCommitLog=${FILE_SIZE:-67108864}
waitTimeMillsInSendQueue=30000" # what waits longer is refused: the machine may have other work
FRESH=1 PROXY=${PROXY:-local} STORE=$work/store EXTRA=$extra java_up
run grpc TestImportFillGRPC "$NAMESRV" "${PROXY_ADDR:-127.0.0.1:8081}"
run remoting TestImportFill "$NAMESRV" "${BROKER:-127.0.0.1:10911}"
"$bin" group create import-place -n "$NAMESRV"
"$bin" group clone-offsets import-group import-place --topic import-main -n "$NAMESRV" # without a topic the Java broker clones nothing
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
measured "$bin" import "$work/store" --data "$work/data" 2>&1 | grep -v '^\(reading\|importing\) '
echo "$(du -sm "$work/store" | cut -f1) MiB there, $(du -sm "$work/data" | cut -f1) MiB here"
"$bin" debug verify --data "$work/data"

echo "-- find it again"
"$bin" serve --data "$work/data" --advertise 127.0.0.1 --nameserver 127.0.0.1:0 --remoting 127.0.0.1:0 --grpc 127.0.0.1:0 --http off \
  --log-format json 2>"$work/cairn.log" &
pid=$!
for _ in $(seq 300); do grep -q '"message":"cairn is ready"' "$work/cairn.log" && break; kill -0 $pid || { cat "$work/cairn.log"; exit 1; }; sleep 0.1; done
address() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*"message":"cairn is ready".*/\1/p' "$work/cairn.log"; }
here=$(address nameserver)
failed=0
run remoting TestImportFind "$here" "$(address remoting)" >"$work/find.log" &
other=$!
run grpc TestImportFindGRPC "$here" "$(address grpc)" || failed=1
wait $other || failed=1
cat "$work/find.log"
if grep '"level":"error"' "$work/cairn.log"; then failed=1; fi
[ $failed = 0 ] || exit 1
awk '/VmHWM/ {print "the broker had " $2 " KiB at most"}' "/proc/$pid/status"

echo "-- a Java broker starts with what Cairn exports"
"$bin" metadata export "$work/back/config" -n "$here"
kill $pid
wait $pid
pid=
"$bin" debug verify --data "$work/data"
# With lite topics it would read its offsets from lmqConsumerOffset.json.
PROXY=none STORE=$work/back EXTRA='enableLmq=false
enableMultiDispatch=false' java_up
"$bin" metadata export "$work/again" -n "$NAMESRV"
plain() { tr -d ' \n\t' <"$1" | sed 's/"dataVersion":{[^}]*}//'; } # without when the file was written
for file in topics subscriptionGroup consumerOffset; do
  [ "$(plain "$work/back/config/$file.json")" = "$(plain "$work/again/$file.json")" ] || { diff "$work/back/config/$file.json" "$work/again/$file.json"; exit 1; }
done
admin() { bash "$reference/mqadmin.sh" "$@" -n "$NAMESRV"; }
admin topicList | grep -q '^import-main$'
admin topicRoute -t import-main | grep -A1 readQueueNums
admin consumerProgress -g import-group
bash "$reference/down.sh"
