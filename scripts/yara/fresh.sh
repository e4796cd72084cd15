#!/usr/bin/env bash
# fresh.sh write notes what vql/yara/libyara.wasm was made of; fresh.sh check says
# whether that still holds. Neither needs a compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."
stamp=scripts/yara/libyara.stamp

inputs() {
	sha256sum scripts/yara/{build.sh,exception.h,shim.c,spend.patch} scripts/yara/include/*.h scripts/yara/include/*/*.h |
		LC_ALL=C sort -k2
}

case ${1:-} in
write)
	{
		inputs
		sha256sum vql/yara/libyara.wasm
		echo "# $(clang --version | head -1)"
	} >"$stamp"
	;;
check)
	diff <(grep -v '^#' "$stamp") <(inputs; sha256sum vql/yara/libyara.wasm) || {
		echo "vql/yara/libyara.wasm is not made of these files: run make yara"
		exit 1
	}
	;;
*)
	echo "usage: fresh.sh check | write" >&2
	exit 2
	;;
esac
