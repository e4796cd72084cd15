#!/usr/bin/env bash
# Runs the kill stories on a real NFSv4.1 mount (integration/lab/umlnfs): the node
# and its agent run in one guest, the store lies on the server of another network
# namespace. A lab that cannot be started fails.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export CGO_ENABLED=0
go build -o "$out/raptorpack" ./cmd/raptorpack
go test -c -o "$out/integration.test" ./integration
integration/lab/umlnfs/umlnfs.sh run -nodes 1 -mem 3G -timeout 30m -- \
	on c1 env RAPTORPACK_BINARY="$out/raptorpack" RAPTORPACK_LABS=required TMPDIR=/run/tmp HOME=/run/tmp \
	"$out/integration.test" -test.v -test.timeout 25m -test.run 'TestKilled|TestChecker' -stores /mnt "$@"
