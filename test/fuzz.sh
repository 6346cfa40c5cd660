#!/usr/bin/env bash
# Fuzzes every decoder, one target after the other, and prints a line for each.
#   test/fuzz.sh               ten minutes each
#   test/fuzz.sh 30s           another time for each
#   test/fuzz.sh 1m wire txn.FuzzRows  only targets whose name, with the path of their package before it, contains one of these words
# FUZZ_PARALLEL sets the processes of a target (default: one per processor). What fails is written to the package's
# testdata/fuzz and is from then on tried by every `go test`; mend the fault and commit that file with it.
set -u
cd "$(dirname "$0")/.."
export GOFLAGS="${GOFLAGS:--buildvcs=false}"
time=${1:-10m}
[ $# -gt 0 ] && shift
case "$time" in *[0-9]s | *[0-9]m | *[0-9]h) ;; *) echo "usage: test/fuzz.sh [DURATION [WORD…]]"; exit 2 ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

wanted() { # TARGET WORD…
  local target=$1 word; shift
  [ $# = 0 ] && return 0
  for word in "$@"; do case "$target" in *"$word"*) return 0 ;; esac; done
  return 1
}

ended() { # the fuzzer now and then calls the end of its time an error (golang.org/issue/75804)
  grep -q '^ *context deadline exceeded$' "$work/log" && ! grep -q 'Failing input\|panic' "$work/log"
}

passed=0 failed=0
while read -r package; do
  for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "./${package#*/*/*/}"/*_test.go | cut -d' ' -f2); do
    wanted "$package.$target" "$@" || continue
    t0=$(date +%s)
    if go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10s ${FUZZ_PARALLEL:+-parallel "$FUZZ_PARALLEL"} "$package" >"$work/log" 2>&1 || ended; then
      result=passed passed=$((passed + 1))
    else
      result=FAILED failed=$((failed + 1))
    fi
    runs=$(sed -n 's/^fuzz: .*execs: \([0-9]*\) .*/\1/p' "$work/log" | tail -1)
    printf '%-50s %-24s %-7s %5d s %12s inputs\n' "${package#*/*/}" "$target" "$result" $(($(date +%s) - t0)) "${runs:-0}"
    [ "$result" = passed ] || grep -v '^fuzz: elapsed' "$work/log" | head -60
  done
done < <(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | sed 's|^\./|github.com/cairnmq/cairn/|')
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
