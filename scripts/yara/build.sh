#!/usr/bin/env bash
# Builds vql/yara/libyara.wasm from the sources of libyara, in the same bytes each
# time for the same compiler. Needs curl, clang, wasm-ld, llvm-strip, wasi-libc and
# the wasm32 builtins of clang (Debian: clang lld llvm wasi-libc libclang-rt-dev-wasm32).
# SOURCE=FILE takes the archive of sources from a file.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=4.5.2
sum=1f87056fcb10ee361936ee7b0548444f7974612ebb0e681734d8de7df055d1ec
url=http://deb.debian.org/debian/pool/main/y/yara/yara_$version.orig.tar.gz

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${SOURCE:-}" ]; then
	cp "$SOURCE" "$work/yara.tar.gz"
else
	curl -fsS --retry 3 -o "$work/yara.tar.gz" "$url"
fi
echo "$sum  $work/yara.tar.gz" | sha256sum --check --quiet
tar -xzf "$work/yara.tar.gz" -C "$work"
lib=$work/yara-$version/libyara
cp scripts/yara/exception.h "$lib/exception.h"
sed -i '/(tests)/d' "$lib/modules/module_list"
# Values are freed by functions without a result, which WebAssembly, other than
# machines, does not take for functions with one.
sed -i 's/typedef int (\*YR_HASH_TABLE_FREE_VALUE_FUNC)/typedef void (*YR_HASH_TABLE_FREE_VALUE_FUNC)/' "$lib/include/yara/hash.h"
patch -s -p1 -d "$work/yara-$version" <scripts/yara/spend.patch

# Threads, mapped files and processes are answered in shim.c.
files=()
for f in "$lib"/*.c "$lib"/tlshc/*.c "$lib"/modules/{console,dex,dotnet,elf,hash,macho,math,pe,string,time}/*.c; do
	case ${f#"$lib"/} in
	filemap.c | threading.c | proc.c) ;;
	*) files+=("$f") ;;
	esac
done

flags=(
	--target=wasm32-wasi --sysroot=/usr -O2 -std=gnu11 -fno-ident "-ffile-prefix-map=$work=."
	-Wno-everything -Werror=cast-function-type -Werror=incompatible-function-pointer-types
	-isystem scripts/yara/include -I"$lib" -I"$lib/include" -I"$lib/modules"
	-DHASH_MODULE -DDOTNET_MODULE -DMACHO_MODULE -DDEX_MODULE
	-DHAVE_COMMONCRYPTO_COMMONCRYPTO_H -DHAVE_STDBOOL_H -DHAVE_TIMEGM -DHAVE_CLOCK_GETTIME
	-DHAVE_STRLCPY -DHAVE_STRLCAT -DHAVE_MEMMEM -DBUCKETS_128=1 -DCHECKSUM_1B=1
	-DYR_MAX_STRING_MATCHES=100000 -D_WASI_EMULATED_PROCESS_CLOCKS
)
# Each branch is counted, so that the host is asked now and then whether to go on
# (rp_check in shim.c); spend.patch marks the functions that count for themselves.
count=(-Xclang -fsanitize-coverage-type=3 -Xclang -fsanitize-coverage-trace-pc)
objects=()
for f in "${files[@]}" scripts/yara/shim.c; do
	o=$work/$(basename "$(dirname "$f")")-$(basename "$f").o
	case $f in
	*/shim.c) clang "${flags[@]}" -c "$f" -o "$o" ;;
	*) clang "${flags[@]}" "${count[@]}" -c "$f" -o "$o" ;;
	esac
	objects+=("$o")
done

# The stack lies below the data, so that it overflows into a trap.
clang --target=wasm32-wasi --sysroot=/usr -mexec-model=reactor -Wl,--stack-first -Wl,-z,stack-size=4194304 \
	-Wl,--strip-all -Wl,--gc-sections "${objects[@]}" -lwasi-emulated-process-clocks -o "$work/libyara.wasm"
install -m 644 "$work/libyara.wasm" vql/yara/libyara.wasm
scripts/yara/fresh.sh write
