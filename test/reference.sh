#!/usr/bin/env bash
# Runs a command that starts the Java broker by its scripts, on ports of its own, so that several can run on one machine.
#   test/reference.sh DIR PORTS COMMAND…
#   test/reference.sh DIR 36000 go test -count=1 ./test/system
# DIR has the scripts up.sh and down.sh. Name server, broker and proxy (gRPC, Remoting) listen on PORTS + 876, + 911, + 81 and + 80, the
# broker on + 909 and + 912, too. RMQ_HOME says where the jars are; what is stored and logged goes to a temporary folder, and LOGS, if it
# is set, is a folder that keeps the logs.
set -euo pipefail
scripts=$(cd "$1" && pwd) ports=$2
shift 2
jars=${RMQ_HOME:-${TMPDIR:-/tmp}/rmq}
work=$(mktemp -d)
export CAIRN_REFERENCE=$work/scripts RMQ_HOME=$work/home
export NAMESRV=127.0.0.1:$((ports + 876)) BROKER_ADDR=127.0.0.1:$((ports + 911)) PROXY_ADDR=127.0.0.1:$((ports + 81))
export BROKER=$BROKER_ADDR # test/import.sh calls it so
end() {
  bash "$CAIRN_REFERENCE/down.sh" || true
  [ -z "${LOGS:-}" ] || { mkdir -p "$LOGS" && cp -r "$RMQ_HOME/logs/." "$LOGS"; }
  rm -rf "$work"
}
trap end EXIT

cp -r "$scripts" "$CAIRN_REFERENCE"
chmod -R u+w "$CAIRN_REFERENCE"
mkdir -p "$RMQ_HOME/conf"
if [ -e "$jars/lib" ]; then # else up.sh builds them
  for f in lib lib-grpc target; do ln -s "$jars/$f" "$RMQ_HOME/$f"; done
  touch "$RMQ_HOME/built"
fi

# The scripts can say where the broker listens, and neither where the name server does nor where the proxy does.
echo "listenPort=$((ports + 876))" >"$RMQ_HOME/conf/namesrv.conf"
sed -i "s|\(NamesrvStartup\)\$|\1 -c '$RMQ_HOME/conf/namesrv.conf'|" "$CAIRN_REFERENCE/up.sh"
sed -i "s|^listenPort=.*|listenPort=$((ports + 911))|" "$CAIRN_REFERENCE/conf/broker-common.conf"
sed -i -e "s|\(\"namesrvAddr\"\): \"[^\"]*\"|\1: \"$NAMESRV\"|" -e "s|\(\"grpcServerPort\"\): [0-9]*|\1: $((ports + 81))|" \
  -e "s|\(\"remotingListenPort\"\): [0-9]*|\1: $((ports + 80))|" "$CAIRN_REFERENCE/conf/rmq-proxy.json"
"$@"
