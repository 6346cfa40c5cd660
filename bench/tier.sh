#!/usr/bin/env bash
# What tiered storage costs those who read and write what is here, and what reading from it costs:
#   hot     messages sent and consumed at once, as fast as they go, without a tier and while their segments are uploaded
#   paced   the same at a rate, while a group reads a topic that is in the tier from its beginning and while that reader is stopped:
#           five seconds of one, five of the other, until it has read all, so that what else the machine does meets both alike
#   cold    how fast that group is, and how long its first messages take after a restart
#   stored  bytes of a message here and in the tier, objects and requests for each GiB
#   bench/tier.sh [ROUNDS]         3 by default; of each pair the medians
#   TIER=URL                       the object store; by default a folder
#   HOT=1000000                    messages of a hot run
#   COLD=1000000                   messages of the topic in the tier
#   RATE=5000                      messages a second of a paced run
#   DATA=FOLDER                    where the broker's data go; by default a temporary folder
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
HOT=${HOT:-1000000} COLD=${COLD:-1000000} RATE=${RATE:-5000}
work=$(mktemp -d)
data=${DATA:-$work}/cairn-tier
TIER=${TIER:-file://$work/objects}
ns=127.0.0.1:9876 http=http://127.0.0.1:9877
mkdir -p "$work/objects"
go build -o "$work/cairn" ./cmd/cairn
pid=
stop() { [ -z "$pid" ] || { kill "$pid" && wait "$pid" || true; }; pid=; }
trap 'stop; rm -rf "$work" "$data"' EXIT

start() { # FLAGS…
  "$work/cairn" serve --data "$data" --advertise 127.0.0.1 --durability interval --segment-size 64MiB --log-level warn "$@" 2>>"$work/cairn.log" &
  pid=$!
  for _ in $(seq 1000); do
    curl -sf "$http/readyz" >/dev/null 2>&1 && return 0
    kill -0 "$pid" 2>/dev/null || { cat "$work/cairn.log" >&2; exit 1; }
    sleep 0.01
  done
}
tiered() { start --tiered.url "$TIER" --retention "${1:-1s}" --name "$name"; }
fresh() { stop; rm -rf "$data"; name=bench-$(date +%s%N); } # each broker has a tier of its own
bench() { "$work/cairn" bench "$@" -e $ns --pid "$pid" -o json 2>"$work/said" || { cat "$work/said" "$work/cairn.log" >&2; return 1; }; }
number() { sed -n 's/.*"'"$1"'":\([0-9.e+]*\).*/\1/p'; }
of() { sed -n 's/.*"'"$1"'":{[^}]*"'"$2"'":\([0-9.]*\).*/\1/p'; } # LATENCY QUANTILE
median() { sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
segments() { find "$data/log" -name "[0-9]*" | wc -l; }
gone() { for _ in $(seq 6000); do [ "$(segments)" -le 2 ] && return 0; sleep 0.1; done; echo "the log keeps $(segments) segments" >&2; exit 1; }
metric() { curl -sf "$http/metrics" | awk -v name="$1" '$1 ~ "^" name "({|$)" {sum += $2} END {printf "%d", sum}'; }

for _ in $(seq "$rounds"); do
  fresh; start
  bench e2e -t hot -w 64 --conns 4 -m "$HOT" > "$work/row"; number throughput < "$work/row" >> "$work/hot.none"
  fresh; tiered 1h
  bench e2e -t hot -w 64 --conns 4 -m "$HOT" > "$work/row"; number throughput < "$work/row" >> "$work/hot.tier"
done
none=$(median < "$work/hot.none") with=$(median < "$work/hot.tier")
awk -v a="$none" -v b="$with" 'BEGIN {printf "hot: %.0f messages/s sent and consumed without a tier, %.0f with uploads: %.2fx\n", a, b, b / a}'

fresh; tiered
"$work/cairn" topic create cold --queues 8 -n $ns >/dev/null
bench produce -t cold -w 64 --conns 4 -m "$COLD" >/dev/null
bench produce -t filler -w 64 --conns 4 -m 500000 >/dev/null # seals the last segment of the others
gone
parts=$("$work/cairn" tier status -o json)
metric rocketmq_tiered_store_provider_rpc_latency_count > "$work/requests"
stop; tiered
bench consume -t cold -g first -w 1 -b 1 -m 1 > "$work/row"
printf 'cold: the first message after a restart took %.1f ms\n' "$(number took_ns < "$work/row" | awk '{print $1 / 1e6}')"
paced() { bench e2e -t hot -w 16 -r "$RATE" -m $((RATE * 5)) > "$work/row"; }
for round in $(seq "$rounds"); do
  stop; rm -rf "$data/tier-cache"
  start --tiered.url "$TIER" --retention 1h --segment-size 1GiB --name "$name" # nothing is uploaded meanwhile
  "$work/cairn" bench consume -t cold -g "all$round" -w 8 -m "$COLD" -e $ns -o json > "$work/cold" 2>/dev/null & reader=$!
  stopped=0
  while paced && kill -0 "$reader" 2>/dev/null; do
    kill -STOP "$reader" 2>/dev/null || break
    from=$(date +%s%N)
    of e2e_ms p99 < "$work/row" >> "$work/paced.cold"
    paced; of e2e_ms p99 < "$work/row" >> "$work/paced.alone"
    kill -CONT "$reader"; stopped=$((stopped + $(date +%s%N) - from))
  done
  wait "$reader"; number took_ns < "$work/cold" | awk -v n="$COLD" -v s="$stopped" '{print n / ($1 - s) * 1e9}' >> "$work/cold.rate"
done
alone=$(median < "$work/paced.alone") beside=$(median < "$work/paced.cold")
awk -v a="$alone" -v b="$beside" -v r="$RATE" -v n="$(wc -l < "$work/paced.cold")" 'BEGIN {printf "paced: %d messages/s sent and consumed, p99 %.2f ms alone, %.2f beside a cold reader: %.2fx, medians of %d times 5 s\n", r, a, b, b / a, n}'
printf 'cold: %.0f messages/s read from the beginning, beside that\n' "$(median < "$work/cold.rate")"
stored() { sed -n 's/.*"'"$1"'"[: ]*\([0-9]*\).*/\1/p' <<<"$parts"; }
awk -v raw="$(stored rawBytes)" -v stored="$(stored storedBytes)" -v n="$(stored messages)" -v parts="$(stored parts)" -v puts="$(cat "$work/requests")" 'BEGIN {
  printf "stored: %.0f bytes of log a message, %.0f in the tier; for each GiB of log %.1f objects and %.0f requests\n", raw / n, stored / n, 2 * parts / raw * 2^30, puts / raw * 2^30}'
