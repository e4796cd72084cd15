#!/usr/bin/env bash
# Everything that has to hold before a commit, apart from the tests themselves.
# Each step runs, so that one call shows all that is wrong.
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
failed=()

step() { # step NAME COMMAND...
	local name=$1 start=$SECONDS
	shift
	if "$@"; then
		printf 'ok    %-42s %4ds\n' "$name" $((SECONDS - start))
	else
		printf 'FAIL  %-42s %4ds\n' "$name" $((SECONDS - start))
		failed+=("$name")
	fi
}

formatted() {
	local files
	files=$(bin/gofumpt -l . | grep -vE '\.pb\.go$|^integration/lab/')
	[ -z "$files" ] || { echo "not formatted by gofumpt:"; echo "$files"; return 1; }
}

# The server's stories and tests are for Linux; what must exist elsewhere is the
# program itself, and all that it is built from.
elsewhere() ( # elsewhere GOOS GOARCH; in a shell of its own, for the variables' sake
	export GOOS=$1 GOARCH=$2 CGO_ENABLED=0
	ours=$($GO list -deps ./cmd/raptorpack | grep '^raptorpack/') || exit 1
	# shellcheck disable=SC2086
	$GO build -o /dev/null ./cmd/raptorpack && $GO vet -tests=false $ours
)

generated() {
	local fresh
	fresh=$(mktemp -d) || return 1
	scripts/proto.sh "$fresh" || { rm -rf "$fresh"; return 1; }
	local stale=0 file dir
	for dir in proto/wirepb proto/buspb; do
		for file in "$dir"/*.pb.go "$fresh/$dir"/*.pb.go; do
			local name=$dir/${file##*/}
			cmp -s "$name" "$fresh/$name" || { echo "stale, run make proto: $name"; stale=1; }
		done
	done
	rm -rf "$fresh"
	return $stale
}

# Where this tree and the modules lie on the machine that builds is nobody's business.
clean_paths() {
	local found
	found=$(grep -rnIF -e "$PWD/" -e "$($GO env GOMODCACHE)" --exclude-dir=.git --exclude-dir=bin --exclude-dir=demo .)
	[ -z "$found" ] || { echo "paths of this machine:"; echo "$found"; return 1; }
}

units() {
	command -v systemd-analyze >/dev/null || return 0
	local text
	text=$(systemd-analyze verify deploy/systemd/*.service 2>&1 | grep -E 'raptorpack-' | grep -v 'is not executable')
	[ -z "$text" ] || { echo "$text"; return 1; }
}

tools_tidy() { (cd tools && $GO mod tidy -diff && $GO mod verify); }

step 'gofumpt' formatted
step 'go vet' $GO vet ./...
step 'builds and vets on linux/arm64' elsewhere linux arm64
step 'builds and vets on windows/amd64' elsewhere windows amd64
step 'builds and vets on darwin/arm64' elsewhere darwin arm64
step 'staticcheck' bin/staticcheck ./...
step 'protobuf is fresh' generated
step 'libyara.wasm is fresh' scripts/yara/fresh.sh check
step 'documents are fresh' $GO run scripts/docs/*.go -check
step 'tests that documents name exist' scripts/proofs.sh
step 'go.mod is tidy' $GO mod tidy -diff
step 'modules are what go.sum says' $GO mod verify
step 'tools/go.mod is tidy' tools_tidy
step 'licences and floor plan' $GO test -count=1 ./internal/licences ./internal/floors
step 'no paths of build machines' clean_paths
step 'systemd units' units

if [ ${#failed[@]} -gt 0 ]; then
	printf 'make check: %d of the steps failed:' ${#failed[@]}
	printf ' [%s]' "${failed[@]}"
	echo
	exit 1
fi
echo "make check: all good in ${SECONDS}s"
