# The commands everyone uses. `make help` lists them.
SHELL := /bin/bash
GO ?= go
export GOTOOLCHAIN := local
TOOL := $(GO) tool -modfile=tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help build proto
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

build: ## one static binary at bin/raptorpack
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/raptorpack ./cmd/raptorpack

proto: bin/protoc-gen-go bin/protoc-gen-go-grpc ## regenerate proto/*/*.pb.go
	scripts/proto.sh

bin/protoc-gen-go: tools/go.mod
	$(GO) build -modfile=tools/go.mod -o $@ google.golang.org/protobuf/cmd/protoc-gen-go

bin/protoc-gen-go-grpc: tools/go.mod
	$(GO) build -modfile=tools/go.mod -o $@ google.golang.org/grpc/cmd/protoc-gen-go-grpc
