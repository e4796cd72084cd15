#!/usr/bin/env bash
# Counts the server's file calls below its store twice: as the kernel sees them (strace)
# and as /metrics says, between two moments with some flows in between, and prints both.
# A call of ours may be several of the kernel's: what each kind is made of stands in the
# table. A difference ends it with 1: an operation that fell on the edge, if it is small.
# Needs the built program.
#
#   scripts/count-ops.sh [CLIENTS] [FLOWS PER CLIENT]
set -euo pipefail
cd "$(dirname "$0")/.."
clients=${1:-20} each=${2:-5}
raptorpack=$PWD/bin/raptorpack
[ -x "$raptorpack" ] || { echo "count-ops: bin/raptorpack is missing: make build" >&2; exit 1; }
scripts/need.sh strace:strace curl:curl

dir=$(mktemp -d)
tracer='' server='' pool=''
finish() {
	for pid in $pool $server $tracer; do
		kill -TERM "$pid" 2>/dev/null || true
	done
	wait 2>/dev/null || true
	rm -rf "$dir"
}
trap finish EXIT
base=$((20000 + RANDOM % 10000))
config=$dir/server.yaml
mkdir "$dir/store"
"$raptorpack" config generate --datastore "$dir/store" --output "$config" --merge "{
  \"Frontend\":   {\"bind_address\": \"127.0.0.1\", \"bind_port\": $base},
  \"API\":        {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 1))},
  \"GUI\":        {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 2))},
  \"Monitoring\": {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 3))},
  \"Bus\":        {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 4))},
  \"Gossip\":     {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 5))},
  \"Client\":     {\"server_urls\": [\"https://localhost:$base/\"], \"max_poll\": 5, \"max_poll_std\": 1}
}"
"$raptorpack" config client --config "$config" --output "$dir/client.yaml"
export RAPTORPACK_CONFIG=$config

until_true() {
	local what=$1
	shift
	for _ in $(seq 1200); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.1
	done
	echo "count-ops: gave up waiting for: $what" >&2
	return 1
}
metrics() { curl -fsS "http://127.0.0.1:$((base + 3))/metrics" | grep '^raptorpack_filestore_ops_total'; }

strace -f -y -ttt -o "$dir/trace" \
	-e trace=openat,openat2,mkdirat,linkat,renameat,renameat2,unlinkat,newfstatat,statx,fstat,read,pread64,write,pwrite64,writev,pwritev,fsync,fdatasync,ftruncate,getdents64,statfs,fstatfs \
	"$raptorpack" frontend --master --config "$config" >"$dir/server.log" 2>&1 &
tracer=$!
until_true "the server" sh -c "'$raptorpack' status --format jsonl | grep -q '\"ready\":\"\"'"
server=$(pgrep -P "$tracer")
"$raptorpack" pool --config "$dir/client.yaml" --clients "$clients" >"$dir/pool.log" 2>&1 &
pool=$!
known() { [ "$("$raptorpack" clients search online --format jsonl | grep -cE '"hostname":"[^"]+"')" -eq "$clients" ]; }
until_true "the agents" known
mapfile -t ids < <("$raptorpack" clients list --format jsonl | grep -oE 'C\.[0-9a-f]{16}' | sort -u)
sleep 3 # until what enrolment left behind is written

metrics >"$dir/before"
from=$(date +%s.%N)
for id in "${ids[@]}"; do
	for _ in $(seq "$each"); do "$raptorpack" collect "$id" Generic.Client.VQL --quiet >/dev/null 2>&1 || true; done
done
flows=$((${#ids[@]} * each))
finished() {
	local n=0
	for id in "${ids[@]}"; do n=$((n + $("$raptorpack" flows list "$id" --format jsonl | grep -c "\"state\":\"completed\""))); done
	[ "$n" -ge $((flows + ${#ids[@]})) ]
}
until_true "the flows" finished
metrics >"$dir/after"
to=$(date +%s.%N)

# Of the trace: calls between the two moments whose file or folder lies below the store.
# A call that another thread interrupts stands as "unfinished" and "resumed": once counted.
awk -v from="$from" -v to="$to" -v store="$dir/store" '
	$2 < from || $2 > to || index($0, store) == 0 || /resumed>/ { next }
	{ name = $3; sub(/\(.*/, "", name); n[name]++ }
	END { for (name in n) print name, n[name] }' "$dir/trace" >"$dir/kernel"
awk -v flows="$flows" '
	FILENAME ~ /kernel$/ { kernel[$1] = $2; next }
	{ split($1, part, "\""); n[part[2]] += (FILENAME ~ /after$/ ? $2 : -$2) }
	function row(kinds, ours, calls) { printf "%-22s %8d   %-26s %8d   %+d\n", kinds, ours, calls[0], calls[1], calls[1] - ours; if (calls[1] != ours) differ = 1 }
	END {
		printf "%d flows\n%-22s %8s   %-26s %8s   %s\n", flows, "our metric", "calls", "the kernel", "calls", "more"
		c[0] = "fsync, fdatasync"; c[1] = kernel["fsync"] + kernel["fdatasync"]; row("sync, syncdir", n["sync"] + n["syncdir"], c)
		c[0] = "mkdirat"; c[1] = kernel["mkdirat"]; row("mkdir", n["mkdir"], c)
		c[0] = "linkat"; c[1] = kernel["linkat"]; row("link", n["link"], c)
		c[0] = "renameat, renameat2"; c[1] = kernel["renameat"] + kernel["renameat2"]; row("rename", n["rename"], c)
		c[0] = "unlinkat"; c[1] = kernel["unlinkat"]; row("remove", n["remove"], c)
		c[0] = "write, pwrite64"; c[1] = kernel["write"] + kernel["pwrite64"]; row("write", n["write"], c)
		c[0] = "ftruncate"; c[1] = kernel["ftruncate"]; row("truncate", n["truncate"], c)
		printf "\nall of our metric:"
		for (kind in n) { printf " %s %d", kind, n[kind]; sum += n[kind] }
		printf "; %.1f a flow, an idle node'"'"'s included\nall of the kernel:", sum / flows
		for (name in kernel) printf " %s %d", name, kernel[name]
		printf "\n"
		exit differ
	}' "$dir/kernel" "$dir/before" "$dir/after"
