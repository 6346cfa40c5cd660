#!/usr/bin/env bash
# Starts the cairn binary named by CAIRN_TEST_BIN and runs the official Java clients against it.
#   test/java/run.sh [remoting-5.5.0] [remoting-4.9.8] [admin] [grpc] [mqadmin]
#   MVN_ARGS=-Drewrite test/java/run.sh mqadmin    write its transcript and its table in docs/compatibility.md anew
#   MVN_ARGS="-Dtest=ManyMessagesTest -Dcairn.messages=2000000 -Dheap=2g" test/java/run.sh remoting-5.5.0
set -u
cd "$(dirname "$0")"
work=$(mktemp -d)
bin=${CAIRN_TEST_BIN:-}
if [ -z "$bin" ]; then bin=$work/cairn; (cd ../.. && go build -o "$bin" ./cmd/cairn) || exit 1; fi
# an Apache name server that the admin suite starts later; Cairn keeps trying to register there
while :; do apache=$((20000 + RANDOM % 12000)); (: < "/dev/tcp/127.0.0.1/$apache") 2>/dev/null || break; done
"$bin" serve --name-servers "127.0.0.1:$apache" --data "$work/data" --advertise 127.0.0.1 --nameserver 127.0.0.1:0 --remoting 127.0.0.1:0 --grpc 127.0.0.1:0 --http 127.0.0.1:0 \
  --transaction-timeout 1s --transaction-check-interval 1s --log-format json --segment-size 64MiB 2>"$work/cairn.log" &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null; rm -rf "$work"' EXIT
for _ in $(seq 300); do grep -q '"message":"cairn is ready"' "$work/cairn.log" && break; kill -0 $pid || { cat "$work/cairn.log"; exit 1; }; sleep 0.1; done
address() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*"message":"cairn is ready".*/\1/p' "$work/cairn.log"; }
failed=0
for suite in ${*:-remoting-5.5.0 remoting-4.9.8 admin grpc}; do
  module=${suite%%-*} version=${suite#*-}
  [ "$version" = "$suite" ] && version=5.5.0
  echo "-- java $suite"
  mvn -q -B -Dout="$work/out" -pl "$module" -Drocketmq.version="$version" -Dcairn.bin="$bin" -Dcairn.nameserver="$(address nameserver)" -Dcairn.remoting="$(address remoting)" \
    -Dcairn.apache="127.0.0.1:$apache" -Dcairn.grpc="$(address grpc)" -Dcairn.page="$PWD/../../docs/compatibility.md" ${MVN_ARGS:-} test > "$work/mvn.log" 2>&1
  rc=$?
  find "$work/out" -name '*.txt' -path "*$module-$version/surefire-reports/*" ! -name '*-output.txt' -exec grep -h '^Tests run' {} + | sed "s/^/   $suite: /"
  find "$work/out" -name '*-output.txt' -path "*$module-$version/*" -exec grep -h 'sent and consumed once' {} + | sed "s/^/   /"
  if [ $rc != 0 ]; then
    failed=1
    grep -v -E '^\s+at (java|org.junit|jdk)' "$work/mvn.log" | head -80
    find "$work/out" -name '*-output.txt' -path "*$module-$version/*" -exec tail -n 30 {} +
  fi
done
if [ $failed != 0 ]; then echo "-- broker's log"; grep -v '"level":"info"' "$work/cairn.log" | tail -30; fi
exit $failed
