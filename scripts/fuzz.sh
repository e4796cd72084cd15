#!/usr/bin/env bash
# Runs every Fuzz target for a while: fuzz.sh [TIME]. Each runs although another failed.
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
time=${1:-20s}
failed=()
for dir in $(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | grep -v '^./integration/lab/' | xargs -n1 dirname | sort -u); do
	targets=$($GO test -list '^Fuzz' "$dir" | grep '^Fuzz') || { failed+=("$dir"); continue; }
	for target in $targets; do
		echo "== $dir $target"
		$GO test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$dir" || failed+=("$dir/$target")
	done
done
if [ ${#failed[@]} -gt 0 ]; then
	printf 'make fuzz: failed:'
	printf ' %s' "${failed[@]}"
	echo
	exit 1
fi
echo "make fuzz: no target failed"
