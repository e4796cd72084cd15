#!/usr/bin/env bash
# Runs the stories on a real NFSv4.1 server (integration/lab/umlnfs), in both modes
# of the lab; one that cannot be started fails. Arguments go to both test programs
# (-long, or LONG=1: full size). LAB_STORIES=run or cluster runs one of them only.
#
#   run      kill -9 of a node alone and of its agent: both in one guest, the store on
#            the server of another network namespace
#   cluster  a pack of three nodes: each, the agents and the NFS server are kernels of
#            their own, which lose their power; kills, pauses, mounts that hang
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
case ${LAB_STORIES:=run cluster} in
run | cluster | "run cluster") ;;
*)
	echo "LAB_STORIES=$LAB_STORIES: run or cluster" >&2
	exit 2
	;;
esac
[[ ${LONG:-} != 1 ]] || set -- -long "$@"
limit=30m mem=1G
for word in "$@"; do
	# The agent keeps what is not delivered yet in its machine's memory.
	[[ $word != -long ]] || limit=90m mem=2G
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export CGO_ENABLED=0
$go build -o "$out/raptorpack" ./cmd/raptorpack
lab=integration/lab/umlnfs/umlnfs.sh

# stories runs them; one that is skipped fails, and so does a name that nobody has.
stories() {
	"$@" 2>&1 | tee "$out/stories.log"
	if grep -E '^ *--- SKIP|no tests to run' "$out/stories.log" || ! grep -q '^--- PASS' "$out/stories.log"; then
		echo "not every story was told" >&2
		return 1
	fi
}

if [[ $LAB_STORIES == *run* ]]; then
	$go test -c -o "$out/integration.test" ./integration
	stories $lab run -nodes 1 -mem 3G -disk-mb 4096 -timeout $limit -- \
		on c1 env RAPTORPACK_BINARY="$out/raptorpack" RAPTORPACK_LABS=required TMPDIR=/run/tmp HOME=/run/tmp \
		"$out/integration.test" -test.v -test.timeout $limit -test.run 'TestKilledServer|TestKilledAgent|TestChecker' -stores /mnt "$@"
fi
if [[ $LAB_STORIES == *cluster* ]]; then
	$go vet -tags nfslab ./integration
	$go build -tags seeded -ldflags "-X raptorpack/internal/seeded.linked=sync" -o "$out/raptorpack-nosync" ./cmd/raptorpack
	$go test -tags nfslab -c -o "$out/cluster.test" ./integration
	RAPTORPACK_BINARY="$out/raptorpack" RAPTORPACK_BINARY_NOSYNC="$out/raptorpack-nosync" \
		stories $lab cluster -nodes 4 -mem $mem -disk-mb 4096 -timeout $limit -- \
		"$out/cluster.test" -test.v -test.timeout $limit -test.run 'TestCluster' "$@"
fi
