#!/usr/bin/env bash
# Measures one node under simulated agents and prints each figure beside its aim;
# with PARTS=PATTERN the Go benchmarks of the packages instead, for benchstat.
#
#   bench.sh [flags of integration/bench, as -clients 1000 -idle 10m -only plain,flows]
#   bench.sh pack [flags, as -clients 10000 -only hunt]      a pack of three under load
#   bench.sh vql [flags, as -files 1000000 -only group-10]   the query host against its engine
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
echo "commit: $(git describe --always --dirty 2>/dev/null || echo unknown)"
echo "load:   $(cut -d' ' -f1-3 /proc/loadavg), $(nproc) cores"
if [ -n "${PARTS:-}" ]; then
	for dir in $(grep -rlE '^func Benchmark[A-Z]' --include='*_test.go' . | grep -v '^./integration/lab/' | xargs -n1 dirname | sort -u); do
		$GO test -run '^$' -bench "$PARTS" -benchtime "${BENCHTIME:-1s}" -benchmem "$dir"
	done
	exit 0
fi
if [ "${1:-}" = vql ]; then
	shift
	CGO_ENABLED=0 $GO build -trimpath -o bin/benchvql ./integration/benchvql
	exec bin/benchvql "$@"
fi
CGO_ENABLED=0 $GO build -trimpath -o bin/bench ./integration/bench
exec bin/bench "$@"
