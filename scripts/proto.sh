#!/usr/bin/env bash
# Regenerates the Go code of both contracts, in place or below the folder given.
# Needs Debian's protobuf-compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/need.sh protoc:protobuf-compiler
for dir in proto/wirepb proto/buspb; do
	out="${1:-.}/$dir"
	mkdir -p "$out"
	protoc -I "$dir" \
		--plugin=protoc-gen-go=bin/protoc-gen-go --go_out="$out" --go_opt=paths=source_relative \
		--plugin=protoc-gen-go-grpc=bin/protoc-gen-go-grpc --go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
		"$dir"/*.proto
done
