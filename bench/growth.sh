#!/usr/bin/env bash
# Fills a broker with pending timers, then with open half messages, and prints what it is with none and with each number of
# them: send rates, memory, disk, time from start to ready, and how late timers fire that came due right after the start.
#   bench/growth.sh [TIMERS…]      1000000 10000000 by default; 10 M take about 4 GB of disk
#   HALVES=1000000                 open half messages at the end; 0: none
#   DATA=FOLDER                    where the broker's data go; by default a temporary folder
set -eu
cd "$(dirname "$0")/.."
HALVES=${HALVES:-1000000}
work=$(mktemp -d)
data=${DATA:-$work}/cairn-growth
ns=127.0.0.1:9876 http=http://127.0.0.1:9877
go build -o "$work/cairn" ./cmd/cairn
pid=
stop() { [ -z "$pid" ] || { kill "$pid" && wait "$pid" || true; }; pid=; }
trap 'stop; rm -rf "$work" "$data"' EXIT

# start sets pid and ready_ms. Transactions are checked in a day only, so that all stay open.
start() {
  local began; began=$(date +%s%N)
  "$work/cairn" serve --data "$data" --advertise 127.0.0.1 --durability interval --log-level warn --transaction-timeout 24h 2>"$work/cairn.log" &
  pid=$!
  for _ in $(seq 3000); do
    curl -sf "$http/readyz" >/dev/null 2>&1 && break
    kill -0 "$pid" 2>/dev/null || { cat "$work/cairn.log" >&2; exit 1; }
    sleep 0.01
  done
  ready_ms=$((($(date +%s%N) - began) / 1000000))
}
bench() { "$work/cairn" bench "$@" -e $ns -w 64 --conns 4 -o json 2>/dev/null; }
number() { sed -n 's/.*"'"$1"'":\([0-9.]*\).*/\1/p' | cut -d. -f1; }
resident() { awk '/^VmRSS/{printf "%d", $2 / 1024}' "/proc/$pid/status"; }

row() { # NAME: with what is there now
  local normal delayed before after fired
  normal=$(bench produce -m 200000 | number throughput)
  delayed=$(bench produce -m 200000 -t growth-timers --delay 24h --spread 1h | number throughput)
  before=$(resident)
  # 1,000 timers that are due some seconds after the start
  bench produce -m 1000 -t growth-timers --delay 15s --spread 5s >/dev/null
  stop
  start
  after=$(resident)
  for _ in $(seq 300); do
    fired=$(curl -s "$http/metrics" | sed -n 's/^cairn_timer_lateness_ms_count{.*} //p')
    [ "${fired:-0}" = 1000 ] && break
    sleep 0.1
  done
  printf '%-22s %9s %9s %8s %8s %9s %9s   %s\n' "$1" "$normal" "$delayed" "$before" "$after" "$(du -sm "$data" | cut -f1)" "$ready_ms" \
    "$fired: $(curl -s "$http/metrics" | sed -n 's/^cairn_timer_lateness_ms_bucket{.*le="\([0-9]*\)".*} \(.*\)/\2 within \1 ms/p' | awk '$1 != last {printf "%s%s", sep, $0; sep = ", "; last = $1}')"
}

start
"$work/cairn" topic create growth-timers -n $ns --attribute +message.type=DELAY >/dev/null
"$work/cairn" topic create growth-halves -n $ns --attribute +message.type=TRANSACTION >/dev/null
bench produce -m 50000 >/dev/null
printf '%-22s %9s %9s %8s %8s %9s %9s   %s\n' "" "send/s" "delayed/s" "MiB" "started" "disk MiB" "ready ms" "timers due after the start"
row "none"
there=0
for want in ${*:-1000000 10000000}; do
  bench produce -m $((want - there)) -t growth-timers --delay 24h --spread 1h >/dev/null
  there=$want
  row "$want timers"
done
if [ "$HALVES" != 0 ]; then
  bench txn -m "$HALVES" -t growth-halves --open >/dev/null
  row "and $HALVES halves"
fi
