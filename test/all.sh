#!/usr/bin/env bash
# Runs every test suite and prints each one's result. Needs Go; what else a suite needs (RocksDB's library, a JDK, Maven, Python,
# Node, Cargo) is installed by the system's package client when it is absent.
#   test/all.sh              everything
#   test/all.sh lint unit    these suites only
# Suites: lint unit model rocksdb tiered system client-go-v2 clients java mqadmin
#   MODEL_RUNS=1000000 test/all.sh model    a longer run of POP against its models; the default is 10000
set -u
cd "$(dirname "$0")/.."
export GOFLAGS="${GOFLAGS:--buildvcs=false}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CAIRN_TEST_BIN="$work/cairn"
passed=0 failed=0 table=""

need() { # COMMAND-OR-FILE PACKAGE…: installs the packages when the first is absent
  local probe=$1; shift
  command -v "$probe" >/dev/null 2>&1 || [ -e "$probe" ] && return 0
  local sudo=""
  [ "$(id -u)" = 0 ] || sudo=sudo
  echo "installing $*"
  $sudo apt-get update -qq >"$work/apt.log" 2>&1
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@" >>"$work/apt.log" 2>&1 || { tail -20 "$work/apt.log"; return 1; }
}

suite_lint() {
  local fmt
  fmt=$(git ls-files -z '*.go' | xargs -0 gofmt -l)
  [ -z "$fmt" ] || { echo "gofmt would change:"; echo "$fmt"; return 1; }
  go vet ./... && go tool staticcheck ./... && (cd test/clientgov2 && go vet ./...)
}

suite_unit() { go test -race -timeout 15m $(go list ./... | grep -v /test/); }

suite_model() { # MODEL_RUNS random runs of POP's records and rows, and as many of whole brokers, against their models
  local runs=${MODEL_RUNS:-10000} jobs=() failed=0 job
  go test -c -o "$work/pop.test" ./pop/ && go test -c -o "$work/broker.test" ./broker/ || return 1
  against() { # PACKAGE RUNS TESTS
    (cd "$1" && GOGC=400 "$work/$1.test" -test.run "^Test($3)Agrees?WithTheModel\$" -test.timeout 0 -test.v -rapid.checks="$2") &
    jobs+=($!)
  }
  against pop "$runs" 'RandomRuns'
  against broker $((runs / 4)) 'Pop|DeadLetters'
  against broker $((runs / 4)) 'OrderedPop|DeadLettersInOrder'
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  return "$failed"
}

suite_rocksdb() {
  need /usr/include/rocksdb/c.h librocksdb-dev gcc g++ || return 1
  go vet -tags grocksdb ./kvindex/ && go test -tags grocksdb -timeout 15m ./kvindex/... ./store/ ./pop/ ./delay/ ./txn/ ./broker/
}

suite_tiered() { # object stores on a real S3 server, with a proxy between that breaks things; the first package builds the server
  CAIRN_S3=1 go test -count=1 -timeout 15m ./test/gateway && CAIRN_S3=1 go test -race -count=1 -timeout 15m ./tiered/... ./test/faults &&
    go vet -tags gocloud ./tiered/... && go test -tags gocloud -count=1 ./tiered/objects &&
    go build -o "$CAIRN_TEST_BIN" ./cmd/cairn && CAIRN_S3=1 go test -count=1 -timeout 15m -run '^TestTier' ./test/system
}

suite_system() { go build -o "$CAIRN_TEST_BIN" ./cmd/cairn && CAIRN_CLIENTS= go test -count=1 -timeout 15m ./test/...; }

suite_client-go-v2() { go build -o "$CAIRN_TEST_BIN" ./cmd/cairn && (cd test/clientgov2 && go test -count=1 -timeout 10m ./...); }

suite_clients() { # official clients of other languages, against what they saw at the reference; CAIRN_CLIENTS names some only
  need python3 python3 || return 1
  python3 -c 'import ensurepip' 2>/dev/null || need python3-venv python3-venv || return 1
  need npm nodejs npm || return 1
  need cargo cargo || return 1
  go build -o "$CAIRN_TEST_BIN" ./cmd/cairn && CAIRN_CLIENTS="${CAIRN_CLIENTS:-python node rust}" go test -count=1 -timeout 15m ./test/clients
}

suite_java() {
  need javac default-jdk-headless || return 1
  need mvn maven || return 1
  go build -o "$CAIRN_TEST_BIN" ./cmd/cairn && ./test/java/run.sh
}

suite_mqadmin() { # every subcommand of mqadmin
  need javac default-jdk-headless || return 1
  need mvn maven || return 1
  go build -o "$CAIRN_TEST_BIN" ./cmd/cairn && ./test/java/run.sh mqadmin
}

for s in ${*:-lint unit model rocksdb tiered system client-go-v2 clients java mqadmin}; do
  declare -F "suite_$s" >/dev/null || { echo "no such suite: $s"; exit 2; }
  echo "== $s"
  t0=$(date +%s)
  if "suite_$s"; then r=passed; passed=$((passed + 1)); else r=FAILED; failed=$((failed + 1)); fi
  line=$(printf '%-14s %-7s %4d s' "$s" "$r" $(($(date +%s) - t0)))
  table="$table$line"$'\n'
  echo "== $line"
done
printf '\n%s\nsuites:\n%d passed, %d failed\n' "$table" "$passed" "$failed"
[ "$failed" = 0 ]
