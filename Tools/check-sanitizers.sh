#!/bin/sh
# The C tests under sanitizers: addresses and undefined behaviour, and threads.
#
#   sh Tools/check-sanitizers.sh
#
# mimalloc's library is not instrumented, so the thread sanitizer can't know that
# it is right, and is run without it.  Leaks are not looked for: the tests leave
# blocks on purpose (make check does it, under Valgrind).

set -eu
. "$(dirname "$0")/setup.sh"

# sanitized NAME CFLAGS OPTION...: all C tests in build/NAME
sanitized() {
    directory=$top/build/$1
    flags=$2
    shift 2
    mkdir -p "$directory"
    cd "$directory"
    "$top/configure" -q CFLAGS="-O1 -g -fno-omit-frame-pointer $flags" "$@" >/dev/null
    make -s -j"$(nproc)" clean >/dev/null
    # The address space is left as the sanitizers expect it.
    if setarch -R make -s -j"$(nproc)" check >make.log 2>&1; then
        echo "$flags: clean, $(grep -c '^PASS' make.log) programs"
    else
        grep -h -A12 -e 'ERROR: ' -e 'WARNING: ' -e 'runtime error' -e ':[FE]:' ./*.log || tail make.log
        echo "$flags: FAILED"
        return 1
    fi
}

export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export TSAN_OPTIONS=allocator_may_return_null=1
sanitized asan "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
sanitized tsan "-fsanitize=thread" --without-mimalloc
