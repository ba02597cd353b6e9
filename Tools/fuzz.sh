#!/bin/sh
# Random programs against the model in Lib/test/fuzz.
#
#   sh Tools/fuzz.sh [SECONDS] [FUZZER]
#
# FUZZER is libfuzzer (clang, with address and undefined behaviour sanitizers; the
# default where clang can), afl (AFL++), or own (pseudo-random programs, no
# feedback; any compiler).  Inputs that led somewhere new are kept in
# build/fuzz/corpus for the next run; one that finds a fault is named.

set -eu
. "$(dirname "$0")/setup.sh"
seconds=${1:-60}
case $seconds in
*[!0-9]* | '')
    echo "fuzz.sh: SECONDS is a number, not $seconds" >&2
    exit 2
    ;;
esac
if [ $# -gt 1 ]; then
    fuzzer=$2
elif echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
    clang -x c -fsanitize=fuzzer - -o /dev/null 2>/dev/null; then
    fuzzer=libfuzzer
else
    fuzzer=own
fi

# build_with CC FLAGS: the harness, instrumented, in build/fuzz-$fuzzer.
build_with() {
    directory=$top/build/fuzz-$fuzzer
    mkdir -p "$directory"
    cd "$directory"
    if [ ! -e Makefile ] || [ "$top/configure" -nt Makefile ]; then
        "$top/configure" -q CC="$1" CFLAGS="-O1 -g -fno-omit-frame-pointer $2" >/dev/null
    fi
    make -s libpymem.la >/dev/null 2>make.log || { cat make.log; exit 1; }
    $1 -O1 -g $2 -fsanitize=fuzzer -I. -I"$top/Include" -I"$top/Include/internal" \
        "$top/Lib/test/fuzz/fuzz_pymem.c" "$top/Lib/test/fuzz/model.c" \
        .libs/libpymem.a -pthread -ldl -lm -o fuzz_pymem
    mkdir -p "$top/build/fuzz/corpus"
}

case $fuzzer in
libfuzzer)
    build_with clang "-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined"
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 setarch -R ./fuzz_pymem \
        -max_total_time="$seconds" -max_len=6000 -len_control=0 -rss_limit_mb=4096 \
        -print_final_stats=1 -artifact_prefix="$directory/" "$top/build/fuzz/corpus"
    ;;
afl)
    export AFL_QUIET=1 AFL_SKIP_CPUFREQ=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_NO_UI=1
    build_with afl-clang-fast ""
    if [ -z "$(ls "$top/build/fuzz/corpus")" ]; then
        head -c 3000 "$directory/fuzz_pymem" >"$top/build/fuzz/corpus/first"
    fi
    rm -rf "$directory/out"
    afl-fuzz -V "$seconds" -i "$top/build/fuzz/corpus" -o "$directory/out" -G 6000 -- ./fuzz_pymem
    grep -E 'execs_done|edges_found|total_edges|saved_crashes|saved_hangs' "$directory/out/default/fuzzer_stats"
    grep -q 'saved_crashes *: 0' "$directory/out/default/fuzzer_stats" || {
        echo "fuzz.sh: see $directory/out/default/crashes"
        exit 1
    }
    ;;
own)
    make -s -C "$top/build" fuzz_pymem
    "$top/build/fuzz_pymem" "$seconds"
    ;;
*)
    echo "fuzz.sh: FUZZER is libfuzzer, afl or own, not $fuzzer" >&2
    exit 2
    ;;
esac
