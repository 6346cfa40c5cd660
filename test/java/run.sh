#!/usr/bin/env bash
# Starts the cairn binary named by CAIRN_TEST_BIN and runs the official Java clients against it.
#   test/java/run.sh [remoting-5.5.0] [remoting-4.9.8] [admin] [grpc] [mqadmin]
#   MVN_ARGS=-Drewrite test/java/run.sh mqadmin    write its transcript and its table in docs/compatibility.md anew
#   MVN_ARGS="-Dtest=ManyMessagesTest -Dcairn.messages=2000000 -Dheap=2g" test/java/run.sh remoting-5.5.0
#   CAIRN_REFERENCE=DIR test/java/run.sh [remoting-5.5.0] [remoting-4.9.8] [grpc]
# The last runs them against the reference, to see that the same scenarios hold there: DIR has the scripts up.sh and down.sh that
# start and stop it (file store and proxy). RMQ_HOME says where it keeps its things; NAMESRV, BROKER_ADDR and PROXY_ADDR say where it
# listens. Annotations of scenarios say where it is known to do otherwise, and what only Cairn has.
set -u
cd "$(dirname "$0")"
work=$(mktemp -d)
bin=${CAIRN_TEST_BIN:-}
if [ -z "$bin" ]; then bin=$work/cairn; (cd ../.. && go build -o "$bin" ./cmd/cairn) || exit 1; fi

start_cairn() {
  # an Apache name server that the admin suite starts later; Cairn keeps trying to register there
  while :; do apache=$((20000 + RANDOM % 12000)); (: < "/dev/tcp/127.0.0.1/$apache") 2>/dev/null || break; done
  "$bin" serve --name-servers "127.0.0.1:$apache" --data "$work/data" --advertise 127.0.0.1 --nameserver 127.0.0.1:0 --remoting 127.0.0.1:0 --grpc 127.0.0.1:0 --http 127.0.0.1:0 \
    --transaction-timeout 1s --transaction-check-interval 1s --log-format json --segment-size 64MiB 2>"$work/cairn.log" &
  pid=$!
  trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null; rm -rf "$work"' EXIT
  for _ in $(seq 300); do grep -q '"message":"cairn is ready"' "$work/cairn.log" && break; kill -0 $pid || { cat "$work/cairn.log"; exit 1; }; sleep 0.1; done
  at="-Dcairn.nameserver=$(address nameserver) -Dcairn.remoting=$(address remoting) -Dcairn.grpc=$(address grpc) -Dcairn.apache=127.0.0.1:$apache"
}
address() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*"message":"cairn is ready".*/\1/p' "$work/cairn.log"; }

start_reference() {
  export RMQ_HOME=${RMQ_HOME:-${TMPDIR:-/tmp}/rmq} NAMESRV=${NAMESRV:-127.0.0.1:9876}
  trap 'bash "$CAIRN_REFERENCE/down.sh" >/dev/null; rm -rf "$work"' EXIT
  # What Cairn has without being asked; sends that wait on a busy machine. The reference notes the end of a transaction up to 3 s
  # late, and until then asks for it, so its times are longer than those of Cairn above.
  FRESH=1 PROXY=local HEAP=${HEAP:-1g} STORE=$work/store \
    EXTRA=$'enablePropertyFilter=true\nrecallMessageEnable=true\nwaitTimeMillsInSendQueue=10000\ntransactionTimeOut=5000\ntransactionCheckInterval=8000' \
    bash "$CAIRN_REFERENCE/up.sh" file || exit 1
  at="-Dcairn.reference=true -Dcairn.nameserver=$NAMESRV -Dcairn.remoting=${BROKER_ADDR:-127.0.0.1:10911} -Dcairn.grpc=${PROXY_ADDR:-127.0.0.1:8081}"
}

reports() { # KIND: those of the suite that has just run
  find "$work/out" -name "*$1" -path "*/$module-$version/surefire-reports/*" "${@:2}"
}

count() { # how many scenarios the reference and Cairn agree about, where the clients that run have seen it so
  local outcomes
  outcomes=$(reports -output.txt -exec grep -h '^at the reference: ' {} + | sed 's/^at the reference: //' | sort -u)
  sed "/./!d; s/^/   $suite: /" <<<"$outcomes"
  reports .txt ! -name '*-output.txt' -exec grep -h '^Tests run' {} + | awk -F'[:,]' -v suite="$suite" -v differ="$(grep -c '^differs' <<<"$outcomes")" '
    { agree += $2 - $4 - $6 - $8; failed += $4 + $6; skipped += $8 }
    END { printf "   %s: %d scenarios agree, %d differ as is known, %d only Cairn has, %d failed\n", suite, agree, differ, skipped - differ, failed }'
}

if [ -n "${CAIRN_REFERENCE:-}" ]; then start_reference; suites="remoting-5.5.0 remoting-4.9.8 grpc"; else start_cairn; suites="remoting-5.5.0 remoting-4.9.8 admin grpc"; fi
failed=0
for suite in ${*:-$suites}; do
  module=${suite%%-*} version=${suite#*-}
  [ "$version" = "$suite" ] && version=5.5.0
  case ${CAIRN_REFERENCE:+$module} in admin | mqadmin) echo "$suite runs against Cairn only" >&2; exit 2 ;; esac
  echo "-- java $suite"
  mvn -q -B -Dout="$work/out" -pl "$module" -am -Drocketmq.version="$version" -Dcairn.bin="$bin" $at \
    -Dcairn.page="$PWD/../../docs/compatibility.md" ${MVN_ARGS:-} test > "$work/mvn.log" 2>&1
  rc=$?
  reports .txt ! -name '*-output.txt' -exec grep -h '^Tests run' {} + | sed "s/^/   $suite: /"
  reports -output.txt -exec grep -h 'sent and consumed once\|^tier: ' {} + | sed "s/^/   /"
  [ -z "${CAIRN_REFERENCE:-}" ] || count
  if [ $rc != 0 ]; then
    failed=1
    grep -v -E '^\s+at (java|org.junit|jdk)' "$work/mvn.log" | head -80
    reports -output.txt -exec tail -n 30 {} +
    echo "-- what the clients warned of"
    find "$work/out" -path "*/$module-$version/logs/*.log" -exec grep -hE ' (WARN|ERROR) ' {} + | sort | tail -n 60
  fi
done
if [ $failed != 0 ] && [ -z "${CAIRN_REFERENCE:-}" ]; then echo "-- broker's log"; grep -v '"level":"info"' "$work/cairn.log" | tail -30; fi
exit $failed
