#!/usr/bin/env bash
# A pack of three nodes, a real agent and simulated ones on loopback, in a throw-away
# folder: enrol, collect, upload, hunt, kill the master, and look at the files that are
# left. Needs nothing but the built program.
#
#   DEMO_DIR=FOLDER   where (an empty or new folder); left out: a new one below demo/
#   DEMO_WAIT=1       stay up until Ctrl-C
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
raptorpack=$root/bin/raptorpack
[ -x "$raptorpack" ] || { echo "demo: bin/raptorpack is missing: make build" >&2; exit 1; }
for name in $(compgen -e RAPTORPACK_ || true); do unset "$name"; done

if [ -n "${DEMO_DIR:-}" ]; then
	mkdir -p "$DEMO_DIR"
	[ -z "$(ls -A "$DEMO_DIR")" ] || { echo "demo: $DEMO_DIR is not empty" >&2; exit 1; }
else
	mkdir -p demo
	DEMO_DIR=$(mktemp -d "demo/$(date +%Y%m%d-%H%M%S)-XXX")
fi
dir=$(cd "$DEMO_DIR" && pwd)
mkdir -p "$dir/store" "$dir/agent"
config=$dir/server.yaml
started=$SECONDS

agent='' swarm='' server='' first='' second='' # process ids

# stop tells one of our processes to end, and ends it if it does not.
stop() {
	local pid=$1
	[ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || return 0
	kill -TERM "$pid" 2>/dev/null || return 0
	for _ in $(seq 100); do
		kill -0 "$pid" 2>/dev/null || { wait "$pid" 2>/dev/null || true; return 0; }
		sleep 0.1
	done
	kill -KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
}

finish() {
	local code=$?
	trap - EXIT INT TERM
	stop "$agent"
	stop "$swarm"
	stop "$server"
	stop "$first"
	stop "$second"
	if [ $code -ne 0 ] && [ $code -ne 130 ]; then
		echo "demo: failed; last lines of the logs:" >&2
		tail -n 15 "$dir"/*.log >&2 2>/dev/null || true
	fi
	echo "The folder stays: $dir"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }

# until_true tries a command until it succeeds; it gives up when a process that it
# depends on has ended, or after a while.
until_true() { # until_true WHAT COMMAND...
	local what=$1
	shift
	for _ in $(seq 600); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		for pid in $server $agent $swarm; do
			kill -0 "$pid" 2>/dev/null || { echo "demo: a process ended while waiting for: $what" >&2; return 1; }
		done
		sleep 0.1
	done
	echo "demo: gave up waiting for: $what" >&2
	return 1
}

# taken reports whether something listens on a port of loopback.
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A row of ports that nobody listens on: six for each node, ten apart.
base=0
for _ in $(seq 50); do
	candidate=$((20000 + RANDOM % 10000))
	free=1
	for offset in $(seq 0 25); do
		! taken $((candidate + offset)) || free=0
	done
	[ $free -eq 0 ] || { base=$candidate; break; }
done
[ "$base" -gt 0 ] || { echo "demo: no free ports" >&2; exit 1; }

say "a new deployment with keys of its own: $config"
"$raptorpack" config generate --datastore "$dir/store" --output "$config" --merge "{
  \"Frontend\":   {\"bind_address\": \"127.0.0.1\", \"bind_port\": $base},
  \"API\":        {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 1))},
  \"GUI\":        {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 2))},
  \"Monitoring\": {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 3))},
  \"Bus\":        {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 4))},
  \"Gossip\":     {\"bind_address\": \"127.0.0.1\", \"bind_port\": $((base + 5))},
  \"Client\":     {\"server_urls\": [\"https://localhost:$base/\", \"https://localhost:$((base + 10))/\", \"https://localhost:$((base + 20))/\"],
                \"max_poll\": 5, \"max_poll_std\": 1}
}"
"$raptorpack" config client --config "$config" --output "$dir/client.yaml"

# node NAME ROLE OFFSET starts one; its process id is in $started_node.
node() {
	"$raptorpack" frontend "$2" --config "$config" --node "$1" --port-offset "$3" >"$dir/$1.log" 2>&1 &
	started_node=$!
}

say "three nodes with one file and one folder: a minion, which we shall ask, and two candidates"
node minion --minion 0 && server=$started_node
node master-1 --master 10 && first=$started_node
node master-2 --master 20 && second=$started_node
nodes() { [ "$("$raptorpack" pack status --config "$config" --format jsonl | grep -c '"ready":""')" = "$1" ]; }
until_true "the pack" nodes 3
"$raptorpack" pack status --config "$config" --format table

say "an agent on this machine"
"$raptorpack" client --config "$dir/client.yaml" --writeback "$dir/agent/writeback.yaml" --buffer "$dir/agent/buffer" >"$dir/agent.log" 2>&1 &
agent=$!
known() { "$raptorpack" clients search online --config "$config" --format jsonl | grep -qE '"hostname":"[^"]+"'; }
until_true "the agent to enrol and to tell of its host" known
client=$("$raptorpack" clients list --config "$config" --format jsonl | grep -oE 'C\.[0-9a-f]{16}' | sed -n 1p)
"$raptorpack" clients list --config "$config" --format table

say "fifty simulated agents join at all nodes"
"$raptorpack" pool --config "$dir/client.yaml" --clients 50 --ramp 50 >"$dir/swarm.log" 2>&1 &
swarm=$!
fleet() { [ "$("$raptorpack" clients search online --config "$config" --format jsonl | wc -l)" = 51 ]; }
until_true "the simulated agents" fleet
"$raptorpack" pack status --config "$config" --format table

# collect runs a collection to its end, shows the first rows, and leaves its id in $flow.
collect() {
	"$raptorpack" collect "$client" "$@" --wait --config "$config" --format table >"$dir/rows.txt" 2>"$dir/notes.txt" || {
		cat "$dir/notes.txt" >&2
		return 1
	}
	flow=$(grep -oE 'F\.[0-9A-V]{13}' "$dir/notes.txt" | sed -n 1p)
	cut -c "1-${COLUMNS:-160}" "$dir/rows.txt" | sed -n '1,12p'
	local more=$(($(wc -l <"$dir/rows.txt") - 12))
	[ $more -le 0 ] || echo "... and $more lines more"
	tail -n 1 "$dir/notes.txt"
}

say "collect Linux.Sys.Pslist"
collect Linux.Sys.Pslist

say "collect Linux.Search.FileFinder, with hashes and uploads"
collect Linux.Search.FileFinder --param Upload_File=Y --param Calculate_Hash=Y --param MaxSize=1000000 \
	--param $'SearchFilesGlobTable=Glob\n/etc/*.conf\n/etc/os-release\n/usr/share/doc/base-files/*\n'
uploaded=$("$raptorpack" uploads list "$client" "$flow" --config "$config" --format table)
echo "$uploaded" | sed -n '1,6p' | cut -c "1-${COLUMNS:-160}"

say "fetch one upload; its hash is checked on the way"
"$raptorpack" uploads get "$client" "$flow" 0 --config "$config" --output "$dir/upload-0.bin"
sha256sum "$dir/upload-0.bin"

say "a hunt over all of them"
hunt=$("$raptorpack" hunts create Generic.Client.Info/Users --description 'accounts of the fleet' --config "$config" --format table | grep -oE 'H\.[0-9A-V]{13}')
all_ended() { "$raptorpack" hunts show "$hunt" --config "$config" --format json | grep -qE '"completed": 51\b'; }
until_true "all clients to have taken part" all_ended
"$raptorpack" hunts list --config "$config" --format table
"$raptorpack" hunts results "$hunt" --filter Name=root --limit 5 --config "$config" --format table
"$raptorpack" hunts export "$hunt" --as zip --output "$dir/hunt.zip" --config "$config"
"$raptorpack" hunts verify "$dir/hunt.zip"

say "kill -9 of the master; the other candidate leads"
case $("$raptorpack" pack status --config "$config" --format jsonl | grep '"role":"master"') in
*'"node":"master-1"'*) kill -KILL "$first" && first='' ;;
*) kill -KILL "$second" && second='' ;;
esac
begin=$(date +%s%N)
"$raptorpack" labels add "$client" survivor --config "$config" >/dev/null
echo "a label set at the minion meanwhile took $((($(date +%s%N) - begin) / 1000000)) ms"
until_true "two nodes" nodes 2
"$raptorpack" pack status --config "$config" --format table

say "the rows are plain files"
rows=$(find "$dir/store/clients" -path "*/collections/$flow/results/*" -name '*.jsonl.gz' | sed -n 1p)
ls -l "$rows"
if command -v jq >/dev/null; then
	echo "\$ zcat $rows | jq -c '{OSPath, Size, Hash: .Hash.SHA256}' | head -n 5"
	{ zcat "$rows" | jq -c '{OSPath, Size, Hash: .Hash.SHA256}' || true; } 2>/dev/null | sed -n '1,5p'
else
	echo "\$ zcat $rows | head -n 3        (jq is not installed)"
	{ zcat "$rows" || true; } 2>/dev/null | sed -n '1,3p' | cut -c 1-400
fi
echo "uploads: $(find "$dir/store/clients" -type d -path "*/uploads/$flow" | sed -n 1p)"

say "what the store says of itself"
"$raptorpack" ledger verify --datastore "$dir/store" --format json

say "done in $((SECONDS - started)) s"
cat <<END
agents connect to      https://localhost:$base/
JSON and OpenAPI       https://localhost:$((base + 2))/api/v1/openapi.json
gRPC                   localhost:$((base + 1))
metrics and readiness  http://127.0.0.1:$((base + 3))/metrics  /readyz

Go on with (while the server runs; DEMO_WAIT=1 make demo keeps it up):
  export RAPTORPACK_CONFIG=$config
  bin/raptorpack clients show $client
  bin/raptorpack flows list $client
  bin/raptorpack results $client $flow --format csv
  bin/raptorpack query --config $config 'SELECT client_id, os_info.fqdn FROM clients()'
  echo 'a long password' | bin/raptorpack users add alice --role investigator --password-stdin
END
if [ "${DEMO_WAIT:-}" = 1 ]; then
	echo
	echo "It stays up: Ctrl-C ends it."
	trap 'exit 0' INT TERM
	while kill -0 "$server" 2>/dev/null && kill -0 "$agent" 2>/dev/null; do sleep 0.5; done
	echo "demo: a process ended by itself" >&2
	exit 1
fi
