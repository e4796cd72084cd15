#!/usr/bin/env bash
# Fails when a document names a test that does not exist: `package.TestName`.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=0
while read -r name; do
	package=${name%.*} test=${name##*.}
	dir=$package
	[ -d "$dir" ] || dir=$(find . -type d -name "$package" -not -path './.git/*' | sed -n 1p)
	if [ -z "$dir" ] || ! grep -qsE "^func $test\(" "$dir"/*_test.go; then
		echo "docs name $name, which does not exist"
		missing=1
	fi
done < <(grep -ohE '`[a-z/]+\.(Test|Fuzz|Benchmark)[A-Za-z0-9]+`' README.md docs/*.md docs/adr/*.md | tr -d '`' | sort -u)
exit $missing
