#!/usr/bin/env bash
# Benchmarks of the parts: bench.sh [PATTERN] [TIME]. Prints what Go's tools compare
# (benchstat), after the machine and its load, without which no figure means much.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
pattern=${1:-.} time=${2:-1s}
echo "commit: $(git describe --always --dirty 2>/dev/null || echo unknown)"
echo "load:   $(cut -d' ' -f1-3 /proc/loadavg), $(nproc) cores"
for package in filestore replication flows wire frontend notifier clients client vql vql/endpoint; do
	$GO test -run '^$' -bench "$pattern" -benchtime "$time" -benchmem "./$package"
done
if bin/raptorpack pool --help 2>/dev/null | grep -q -- --bench; then
	bin/raptorpack pool --bench
fi
