#!/usr/bin/env bash
# Runs Cairn and the Java reference broker in turn under the same load, on the same disk, in the same durability mode, and
# prints each figure's median and Cairn's ratios.
#   bench/compare.sh [ROUNDS]      3 rounds by default
#   CASES="remoting-send pull"     only these cases; besides the default ones: delayed-send timers recall txn, and the same
#                                  over gRPC: grpc-delayed-send grpc-recall grpc-txn; and POP, each with grpc- before it as well:
#       pop pop-batch              one group, one topic of 8 queues; each message acknowledged by itself, or those of a pop at once
#       pop-g1 pop-g100 pop-g10000 so many groups, each with a topic of its own of one queue; the same messages in all, 16 a pop
#       pop-failed                 one of 20 messages is not acknowledged the first time (invisible for 10 s)
#       pop-tag pop-sql            a filter that one of 1,000 messages passes; costs are those of a message of the topic
#       pop-wake-1 pop-wake-1000 pop-wake-100000   so many pops wait, 100 messages a second come for one of them each
#   BROKERS="cairn file rocksdb"   which brokers; file and rocksdb are the reference's two store modes
#   DURABILITY=interval            interval (the reference's default, asynchronous flush) or sync (its SYNC_FLUSH)
#   COUNT=200000 WORKERS=64        messages and senders of a case
#   TIMERS=5000 LEAD=20s           timers that are due each second, and the time to send them before
#   POP_COUNT=160000               messages of a POP case (five times as many for a filter), a multiple of 10,000 for pop-g10000
#   WAKES=2000                     messages of a pop-wake case
#   WARM=300000                    messages of the unmeasured run before the cases of each kind, in which the Java broker compiles itself:
#                                  after 10,000 of them its gRPC calls still cost half as much again as later
#   EXTRA='a=b'                    more lines for the reference's broker.conf, as enablePopBufferMerge=true
#   OUT=bench/out/results.json     where rows are kept
# REFERENCE is the folder with the reference's up.sh and down.sh (default ../shared/reference); it needs a JDK and Maven.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
REFERENCE=${REFERENCE:-../shared/reference}
CASES=${CASES:-idle remoting-send pull e2e-paced grpc-send grpc-receive}
BROKERS=${BROKERS:-cairn file rocksdb}
DURABILITY=${DURABILITY:-interval}
COUNT=${COUNT:-200000}
WORKERS=${WORKERS:-64}
TIMERS=${TIMERS:-5000}
LEAD=${LEAD:-20s}
POP_COUNT=${POP_COUNT:-160000}
WAKES=${WAKES:-2000}
WARM=${WARM:-300000}
EXTRA=${EXTRA:-}
OUT=${OUT:-bench/out/results-$DURABILITY.json}
work=$(mktemp -d)
mkdir -p "$(dirname "$OUT")"
: > "$OUT"
go build -o "$work/cairn" ./cmd/cairn
export RMQ_HOME=${RMQ_HOME:-$work/rmq}
pid= grpc=127.0.0.1:8081 ns=127.0.0.1:9876

stop() {
  if [ "${running:-}" = cairn ]; then kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
  elif [ -n "${running:-}" ]; then "$REFERENCE/down.sh" -9 >/dev/null 2>&1 || true; fi
  running=
}
trap 'stop; rm -rf "$work"' EXIT

free() { # waits until nobody answers the ports any more: a broker that still does would be measured in place of the next
  local port
  for port in 9876 10911 8081; do
    for _ in $(seq 100); do
      (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
      sleep 0.1
    done
    echo "something answers port $port: stop it first" >&2
    exit 1
  done
}

begin() { # BROKER
  free
  running=$1
  if [ "$1" = cairn ]; then
    rm -rf "$work/data"
    "$work/cairn" serve --data "$work/data" --advertise 127.0.0.1 --durability "$DURABILITY" --log-level warn 2>"$work/cairn.log" &
    pid=$!
    for _ in $(seq 200); do curl -sf http://127.0.0.1:9877/readyz >/dev/null 2>&1 && break; sleep 0.05; done
    for kind in DELAY TRANSACTION; do
      "$work/cairn" topic create "cairn-bench-$kind" -n $ns --attribute "+message.type=$kind" >/dev/null || { cat "$work/cairn.log" >&2; exit 1; }
    done
    return 0
  fi
  local flush=
  [ "$DURABILITY" = sync ] && flush=flushDiskType=SYNC_FLUSH
  # a filter by SQL92 is off there unless it is asked for
  FRESH=1 PROXY=local EXTRA="$(printf '%s\n' "$flush" enablePropertyFilter=true "$EXTRA")" "$REFERENCE/up.sh" "$1" >&2
  pid=$(cat "$RMQ_HOME/run/broker.pid")
  "$REFERENCE/mqadmin.sh" updateTopic -n $ns -c DefaultCluster -t cairn-bench -r 8 -w 8 -a +message.type=NORMAL >/dev/null 2>&1
  for kind in DELAY TRANSACTION; do
    "$REFERENCE/mqadmin.sh" updateTopic -n $ns -c DefaultCluster -t "cairn-bench-$kind" -r 8 -w 8 -a "+message.type=$kind" >/dev/null 2>&1
  done
  "$REFERENCE/mqadmin.sh" updateSubGroup -n $ns -c DefaultCluster -g bench-grpc >/dev/null 2>&1
  sleep 2
}

row() { # CASE ARGS…: runs a measure and keeps its row
  local name=$1; shift
  echo "   $name" >&2
  timeout 15m "$work/cairn" bench "$@" --pid "$pid" -o json > "$work/row.json" || { echo "   $name failed" >&2; return 0; }
  printf '{"broker":"%s","case":"%s","result":%s}\n' "$running" "$name" "$(cat "$work/row.json")" >> "$OUT"
}

want() { case " $CASES " in *" $1 "*) return 0 ;; esac; return 1; }

idle() { # resident memory of a broker that has done nothing yet
  want idle || return 0
  sleep 3
  printf '{"broker":"%s","case":"idle","result":{"broker":{"resident_mib":%s}}}\n' "$running" \
    "$(awk '/^VmRSS/{printf "%.1f", $2 / 1024}' "/proc/$pid/status")" >> "$OUT"
}

later() { # delayed messages and transactions; a delay of an hour and more, so that none fires meanwhile
  local delay="-t cairn-bench-DELAY" txn="-t cairn-bench-TRANSACTION" hours="--delay 1h --spread 1h"
  if want delayed-send || want recall; then # unmeasured, as above
    "$work/cairn" bench produce -e $ns $delay -w "$WORKERS" -m 20000 $hours -o json >/dev/null || true
  fi
  want delayed-send && row delayed-send produce -e $ns $delay -w "$WORKERS" --conns 4 -m "$COUNT" $hours
  want recall && row recall recall -e $ns $delay -w "$WORKERS" --conns 4 -m $((COUNT / 4)) $hours
  if want txn; then
    "$work/cairn" bench txn -e $ns $txn -w "$WORKERS" -m 10000 -o json >/dev/null || true
    row txn txn -e $ns $txn -w "$WORKERS" --conns 4 -m $((COUNT / 4))
  fi
  # timers of a quarter of the messages, all sent before the first is due: $TIMERS a second
  want timers && row timers timers -e $ns $delay -w "$WORKERS" --conns 4 -m $((COUNT / 4)) -r "$TIMERS" --delay "$LEAD"
  want grpc-delayed-send && row grpc-delayed-send produce -p grpc -e $grpc $delay -w 16 -m $((COUNT / 8)) $hours
  want grpc-recall && row grpc-recall recall -p grpc -e $grpc $delay -w 16 -m $((COUNT / 16)) $hours
  want grpc-txn && row grpc-txn txn -p grpc -e $grpc $txn -w 16 -m $((COUNT / 16))
  return 0
}

pops() { # PREFIX PROTOCOL ENDPOINT: every POP case over one protocol
  local groups by idle pop="pop -p $2 -e $3 --names $ns -w 16 --conns 4 -m $POP_COUNT"
  case " $CASES " in *" $1pop"*) ;; *) return 0 ;; esac
  "$work/cairn" bench $pop -m "$WARM" -o json >/dev/null || true # unmeasured, as below
  want "$1pop" && row "$1pop" $pop
  want "$1pop-batch" && row "$1pop-batch" $pop --ack batch
  for groups in 1 100 10000; do
    want "$1pop-g$groups" && row "$1pop-g$groups" $pop --groups "$groups" --queues 1 -b 16
  done
  want "$1pop-failed" && row "$1pop-failed" $pop --fail-every 20 --invisible 10s --wait 30s
  for by in tag sql; do
    want "$1pop-$by" && row "$1pop-$by" $pop -m $((5 * POP_COUNT)) --filter "$by" --pass-every 1000 --wait 30s
  done
  for idle in 1 1000 100000; do
    want "$1pop-wake-$idle" && row "$1pop-wake-$idle" wake -p "$2" -e "$3" --names $ns --polls "$idle" -m "$WAKES" -r 100 -d 2m
  done
  return 0
}

for round in $(seq "$rounds"); do
  for b in $BROKERS; do
    echo "== round $round, $b, durability $DURABILITY" >&2
    begin "$b"
    idle
    # an unmeasured run first: the Java broker compiles itself meanwhile
    if want remoting-send || want pull || want e2e-paced; then
      "$work/cairn" bench produce -e $ns -w "$WORKERS" -m "$WARM" -o json >/dev/null || true
    fi
    want remoting-send && row remoting-send produce -e $ns -w "$WORKERS" --conns 4 -m "$COUNT"
    want pull && row pull consume -e $ns -w 8 --conns 2 -m "$COUNT"
    want e2e-paced && row e2e-paced e2e -e $ns -w 16 -r 2000 -m 30000
    if want grpc-send || want grpc-receive; then
      "$work/cairn" bench produce -p grpc -e $grpc -w 16 -m "$WARM" -o json >/dev/null || true
      row grpc-send produce -p grpc -e $grpc -w 16 --conns 2 -m $((COUNT / 4))
    fi
    want grpc-receive && row grpc-receive consume -p grpc -e $grpc -g bench-grpc -w 16 --conns 2 -m $((COUNT / 4))
    later
    pops "" remoting $ns
    pops grpc- grpc $grpc
    stop
  done
done
"$work/cairn" bench ratios "$OUT"
