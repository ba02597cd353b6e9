#!/bin/sh
# The set-up of try.sh, then every test.
#
#   sh Tools/check.sh
#
# Prints a line for each part, and at the end one that counts them.

set -eu
case ${1-} in
-h | --help)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
?*)
    echo "check.sh: unknown option $1" >&2
    echo "usage: sh Tools/check.sh" >&2
    exit 2
    ;;
esac
. "$(dirname "$0")/setup.sh"

multilib=
case $(uname -m) in x86_64) multilib=gcc-multilib ;; esac
need_packages $build_packages check python3-pytest python3-venv g++ cmake gdb \
    python3-hypothesis libpython3.11-testsuite valgrind systemtap-sdt-dev clang libclang-rt-14-dev cppcheck python3-numpy \
    python3-sphinx python3-rich python3-matplotlib python3-selenium python3-pil \
    python3-pytest-xdist chromium chromium-driver $multilib
build_default

parts=0
failed=
beside=
log_of() {
    printf '%s/build/check-%s.log' "$top" "$(echo "$1" | tr -c 'a-zA-Z0-9\n' '-')"
}
# run_part NAME COMMAND...: run it, write down how it went.
run_part() {
    log=$(log_of "$1")
    shift
    started=$(date +%s)
    if "$@" >"$log" 2>&1; then result=ok; else result=FAILED; fi
    echo "$result ($(($(date +%s) - started)) s)" >"$log.result"
}
# report_part NAME: say how it went.
report_part() {
    log=$(log_of "$1")
    result=$(cat "$log.result")
    parts=$((parts + 1))
    case $result in
    FAILED*)
        failed="$failed, $1"
        tail -n 60 "$log"
        ;;
    esac
    printf '%-60s %s\n' "$1" "$result"
}
# part NAME COMMAND...: both.
part() {
    run_part "$@"
    report_part "$1"
}
# part_beside NAME COMMAND...: the same, while others run, for what uses one
# processor only; join_parts waits for them.
part_beside() {
    run_part "$@" &
    beside="$beside$1
"
}
join_parts() {
    wait
    while read -r name; do
        [ -z "$name" ] || report_part "$name"
    done <<LIST
$beside
LIST
    beside=
}

# c_tests DIR OPTION...: configure in build/DIR, compile without a warning, run
# the C tests.
c_tests() {
    directory=$top/build/$1
    shift
    configure_in "$directory" "$@"
    make -s -j"$(nproc)" -C "$directory" clean
    make -s -j"$(nproc)" -C "$directory" check >"$directory/make.log" 2>&1 || {
        cat "$directory/make.log"
        grep -h ':[FE]:' "$directory"/*.log
        return 1
    }
    ! grep 'warning:' "$directory/make.log"
}

part "C tests: default" c_tests default
part "C tests: classic geometry" c_tests classic \
    --with-arena-bits=18 --with-pool-bits=12
part "C tests: --with-pydebug" c_tests pydebug --with-pydebug
part "C tests: --without-pymalloc" c_tests without-pymalloc --without-pymalloc
part "C tests: pystats, serial numbers, valgrind, probes" c_tests extras \
    --enable-pystats --with-valgrind --with-dtrace CPPFLAGS=-DPYMEM_DEBUG_SERIALNO
part "C tests: clang, without mimalloc" c_tests clang \
    CC=clang --without-mimalloc
part "C tests: mimalloc in the raw domain, huge pages" c_tests raw-mimalloc \
    --with-raw-allocator=mimalloc --with-pymalloc-hugepages
if [ -n "$multilib" ]; then
    part_beside "contract: 32-bit" "$top/Tools/contract-32bit.sh"
fi
part_beside "contract and faults: under Valgrind" "$top/Tools/check-valgrind.sh" \
    "$top/build/extras"
part_beside "random programs against a model" "$top/Tools/fuzz.sh" 30
part_beside "static analysis" "$top/Tools/check-analyzers"
part_beside "make distcheck" make -s -C "$top/build" distcheck
join_parts
# A file of tests at a time on each processor: some measure shares of one.
part "pytest" sh -c "cd '$top' && /usr/bin/python3 -m pytest -q -n $(nproc) \
    --dist=loadfile Lib/test"
tail -n 1 "$top/build/check-pytest.log"
part "CPython's own tests, all, against the record of stock" \
    "$top/Tools/regrtest" --all --recorded
tail -n 1 "$top/build/check-CPython-s-own-tests--all--against-the-record-of-stock.log"
for name in debug malloc malloc_debug; do
    part "CPython's own tests, PYTHONMALLOC=$name" \
        "$top/Tools/regrtest" --quick --malloc="$name"
done
# Without the files that take minutes on stock, whose tracer is slower; make regrtest
# and Doc/conformance.rst have them all.
part "CPython's own tests, PYTHONTRACEMALLOC=5" \
    "$top/Tools/regrtest" --tracemalloc=5 test_tracemalloc test_sys test_thread \
    test_list test_dict test_memoryview test_array test_marshal test_gc
part "CPython's own tests under pymem-run" \
    "$top/Tools/regrtest" --quick --run=/usr/bin/python3

if [ -n "$failed" ]; then
    printf 'failed: %s\n' "${failed#, }"
    nfailed=$(printf '%s' "$failed" | tr -cd ',' | wc -c)
    printf '%s passed, %s failed\n' $((parts - nfailed)) "$nfailed"
    exit 1
fi
printf '%s passed, 0 failed\n' "$parts"
