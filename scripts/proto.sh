#!/usr/bin/env bash
# Regenerates the Go code of both contracts. Needs Debian's protobuf-compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v protoc >/dev/null; then
	apt-get update -q && apt-get install -y -q protobuf-compiler
fi
for dir in proto/wirepb proto/buspb; do
	protoc -I "$dir" \
		--plugin=protoc-gen-go=bin/protoc-gen-go --go_out="$dir" --go_opt=paths=source_relative \
		--plugin=protoc-gen-go-grpc=bin/protoc-gen-go-grpc --go-grpc_out="$dir" --go-grpc_opt=paths=source_relative \
		"$dir"/*.proto
done
