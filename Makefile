# The commands everyone uses. `make help` lists them.
SHELL := /bin/bash -o pipefail
GO ?= go
export GOTOOLCHAIN := local
TOOL := $(GO) tool -modfile=tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Packages tested at once, and how long one may take.
TEST_PARALLEL ?= 2
TEST_TIMEOUT ?= 15m
FUZZTIME ?= 20s
BENCHTIME ?= 1s
BENCH ?=
PARTS ?=
# A lab that this machine cannot give fails the stories; LABS=optional skips them.
LABS ?= required

.PHONY: help build demo test check fuzz bench bench-pack bench-vql integration integration-nfs proto yara docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

build: ## one static binary at bin/raptorpack
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/raptorpack ./cmd/raptorpack

demo: build ## a pack of three nodes with real and simulated agents on loopback: enrol, collect, hunt, fail over, read the files
	scripts/demo.sh

test: bin/gotestsum ## vet, every test with the race detector, documents fresh: what CI runs
	scripts/need.sh gcc:gcc unzip:unzip openssl:openssl mke2fs:e2fsprogs
	$(GO) vet ./...
	bin/gotestsum --format pkgname --hide-summary=skipped -- -race -p $(TEST_PARALLEL) -timeout $(TEST_TIMEOUT) ./...
	$(GO) run scripts/docs/*.go -check

check: bin/gofumpt bin/staticcheck bin/protoc-gen-go bin/protoc-gen-go-grpc ## formats, vet on all platforms, lint, generated files, modules, licences, floors
	@GO='$(GO)' scripts/check.sh

fuzz: ## every Fuzz target for 20 s (FUZZTIME=1m for longer)
	@GO='$(GO)' scripts/fuzz.sh $(FUZZTIME)

bench: ## one node under simulated agents, each figure beside its aim (PARTS=. for those of the packages)
	@GO='$(GO)' PARTS='$(PARTS)' BENCHTIME='$(BENCHTIME)' scripts/bench.sh $(BENCH)

bench-pack: ## a master and two minions under a script of load: enrol, idle, hunt, bulk, fail-over, churn, waves; tables and drawings (BENCH='-clients 10000 -only hunt')
	@GO='$(GO)' scripts/bench.sh pack $(BENCH)

bench-vql: ## the query host against the bare engine, glob against find, hash against sha256sum (BENCH='-files 1000000 -hash 10')
	@GO='$(GO)' scripts/bench.sh vql $(BENCH)

integration: ## the stories at full size: kills, power cuts, full disks, a thousand crashes of a pack (two hours at most)
	RAPTORPACK_LABS=$(LABS) $(GO) test ./integration -long -timeout 60m -count=1 -v
	RAPTORPACK_LABS=$(LABS) $(GO) test ./integration/stories -timeout 20m -count=1 -v
	$(GO) test ./integration/wholepack -long -timeout 60m -count=1 -v

integration-nfs: ## the stories on a real NFSv4.1 mount between user-mode kernels (LONG=1: at full size)
	@GO='$(GO)' scripts/integration-nfs.sh

proto: bin/protoc-gen-go bin/protoc-gen-go-grpc ## regenerate proto/*/*.pb.go
	scripts/proto.sh

yara: ## rebuild vql/yara/libyara.wasm from the sources of libyara (clang, lld and wasi-libc are needed)
	scripts/yara/build.sh

docs: ## regenerate the parts of docs/ that come from code
	$(GO) run scripts/docs/*.go

clean: ## remove what was built
	rm -rf bin demo

bin/gotestsum: tools/go.mod tools/go.sum
	$(GO) build -modfile=tools/go.mod -o $@ gotest.tools/gotestsum

bin/gofumpt: tools/go.mod tools/go.sum
	$(GO) build -modfile=tools/go.mod -o $@ mvdan.cc/gofumpt

bin/staticcheck: tools/go.mod tools/go.sum
	$(GO) build -modfile=tools/go.mod -o $@ honnef.co/go/tools/cmd/staticcheck

bin/protoc-gen-go: tools/go.mod tools/go.sum
	$(GO) build -modfile=tools/go.mod -o $@ google.golang.org/protobuf/cmd/protoc-gen-go

bin/protoc-gen-go-grpc: tools/go.mod tools/go.sum
	$(GO) build -modfile=tools/go.mod -o $@ google.golang.org/grpc/cmd/protoc-gen-go-grpc
