#!/usr/bin/env bash
# A group that takes messages and never acknowledges: prints, with none and with each number of messages in its hands, what the
# pops of another group and the acknowledgements cost on the same topic, what its own next pops cost, memory, disk and the time
# from start to ready; at the end also what its pops cost when all that it holds has come due again.
#   bench/stuck.sh [COUNTS…]       100000 by default; 1000000 10000000 take about 6 GB of disk
#   SAMPLE=50000                   messages that each measure takes
#   DURABILITY=interval            interval or sync
#   DATA=FOLDER                    where the broker's data go; by default a temporary folder
set -eu
cd "$(dirname "$0")/.."
SAMPLE=${SAMPLE:-50000}
DURABILITY=${DURABILITY:-interval}
work=$(mktemp -d)
data=${DATA:-$work}/cairn-stuck
ns=127.0.0.1:9876 http=http://127.0.0.1:9877
go build -o "$work/cairn" ./cmd/cairn
pid=
stop() { [ -z "$pid" ] || { kill "$pid" && wait "$pid" || true; }; pid=; }
trap 'stop; rm -rf "$work" "$data"' EXIT

start() { # sets pid and ready_ms
  local began; began=$(date +%s%N)
  "$work/cairn" serve --data "$data" --advertise 127.0.0.1 --durability "$DURABILITY" --log-level warn 2>"$work/cairn.log" &
  pid=$!
  for _ in $(seq 3000); do
    curl -sf "$http/readyz" >/dev/null 2>&1 && break
    kill -0 "$pid" 2>/dev/null || { cat "$work/cairn.log" >&2; exit 1; }
    sleep 0.01
  done
  ready_ms=$((($(date +%s%N) - began) / 1000000))
}
bench() { "$work/cairn" bench "$@" -e $ns -o json 2>/dev/null; }
number() { sed -n 's/.*"'"$1"'":\([0-9.]*\).*/\1/p'; }
of() { sed -n 's/.*"'"$1"'":{[^}]*"'"$2"'":\([0-9.]*\).*/\1/p'; } # LATENCY QUANTILE
resident() { awk '/^VmRSS/{printf "%d", $2 / 1024}' "/proc/$pid/status"; }
take() { bench pop --there -t stuck --pid "$pid" "$@"; } # what the topic holds
held() { take -g stuck -m "$1" --ack never --invisible "$2"; }

row() { # NAME: with what is there now
  take -m "$SAMPLE" > "$work/other"
  held "$SAMPLE" 11h > "$work/own"
  local before; before=$(resident)
  stop
  start
  printf '%-20s %8.0f %7.1f %7.2f %7.2f %7.2f %7.2f %9.0f %7.1f %7.2f %7s %7s %8s %8s\n' "$1" \
    "$(number throughput < "$work/other")" "$(number cpu_us_per_message < "$work/other")" \
    "$(of pop_ms p50 < "$work/other")" "$(of pop_ms p99 < "$work/other")" "$(of ack_ms p50 < "$work/other")" "$(of ack_ms p99 < "$work/other")" \
    "$(number throughput < "$work/own")" "$(number cpu_us_per_message < "$work/own")" "$(of pop_ms p99 < "$work/own")" \
    "$before" "$(resident)" "$(du -sm "$data" | cut -f1)" "$ready_ms"
}

start
[ $# -gt 0 ] || set -- 100000
for most in "$@"; do :; done # the last one
"$work/cairn" topic create stuck -n $ns >/dev/null
bench produce -t stuck -w 64 --conns 4 -m $((most + SAMPLE * ($# + 2))) >/dev/null
printf '%-20s %8s %7s %7s %7s %7s %7s %9s %7s %7s %7s %7s %8s %8s\n' "" "other/s" "CPU µs" "pop p50" "p99" "ack p50" "p99" "stuck/s" "CPU µs" "pop p99" "MiB" "started" "disk MiB" "ready ms"
row "none"
there=$SAMPLE
for count in "$@"; do
  [ "$count" -le "$there" ] || held $((count - there)) 11h >/dev/null
  [ "$count" -le "$there" ] || there=$count
  row "$count held"
  there=$((there + SAMPLE))
done
# a second group holds as much, for as long as it takes to take it; all of it is due again then
seconds=$((10 + most / 20000))
began=$(date +%s)
take -g again -m "$most" --ack never --invisible "${seconds}s" >/dev/null
wait_for=$((began + 2 * seconds + 1 - $(date +%s)))
[ "$wait_for" -le 0 ] || sleep "$wait_for"
take -g again -m "$SAMPLE" --ack never --invisible 11h > "$work/again"
printf '%s due again: %.0f/s, %.1f µs CPU a message, pop p50 %.2f p99 %.2f ms; %s MiB\n' "$most" "$(number throughput < "$work/again")" \
  "$(number cpu_us_per_message < "$work/again")" "$(of pop_ms p50 < "$work/again")" "$(of pop_ms p99 < "$work/again")" "$(resident)"
