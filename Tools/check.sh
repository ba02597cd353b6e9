#!/bin/sh
# The set-up of try.sh, then every test.
#
#   sh Tools/check.sh [--quick | --python | --systems | --packages]
#
# Prints a line for each part, and at the end one that counts them.
#
# --quick: the C tests, the pytest suite and 45 files of CPython's own tests, on the
# CPython that try.sh links; without what says nothing about one more system (tests that
# are marked "once").  --python: the same without the C tests and "few_pythons", which are
# the same for each CPython of a system.  --systems: all, and then the quick part in bare
# systems of Debian 13 (CPython 3.13) and testing (3.14 and 3.15); the machine's own tests
# are those of older CPythons then.  A system that can't be made here is named and counted
# as skipped.  --packages: installs what --quick needs, and tests nothing.

set -eu
quick= systems= packages_only= with_c_tests=yes marks=
case ${1-} in
'') ;;
--quick) quick=yes marks="not once" ;;
--python) quick=yes with_c_tests= marks="not once and not few_pythons" ;;
--systems) systems=yes ;;
--packages) quick=yes packages_only=yes ;;
-h | --help)
    sed -n '2,14p' "$0" | sed 's/^# \{0,1\}//'
    exit 0
    ;;
*)
    echo "check.sh: unknown option $1" >&2
    echo "usage: sh Tools/check.sh [--quick | --python | --systems | --packages]" >&2
    exit 2
    ;;
esac
. "$(dirname "$0")/setup.sh"

need_packages $build_packages check python3-pytest python3-pytest-xdist g++ \
    cmake gdb git python3-hypothesis tmux python3-rich
need_python
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $(readlink -f "$(command -v "$python")") in
/usr/bin/*) need_packages "libpython$version-testsuite" "python$version-venv" ;;  # Debian's
esac
if [ -z "$quick" ]; then
    multilib=
    case $(uname -m) in x86_64) multilib=gcc-multilib ;; esac
    need_packages valgrind systemtap-sdt-dev clang libclang-rt-dev clang-tidy cppcheck \
        python3-numpy python3-pytest-asyncio python3-exceptiongroup python3-sphinx furo \
        python3-matplotlib python3-selenium python3-pil \
        chromium chromium-driver lld wasi-libc libclang-rt-dev-wasm32 $multilib \
        gunicorn python3-gevent uvicorn uwsgi-core uwsgi-plugin-python3
fi
[ -z "$packages_only" ] || exit 0

# Bare systems are made while the first parts run.
if [ -n "$systems" ]; then
    for system_python in "trixie " "testing " "testing /usr/bin/python3.15"; do
        PYTHON=${system_python#* } "$top/Tools/in-debian" "${system_python% *}" \
            sh Tools/check.sh --packages
    done >/dev/null 2>&1 &
fi
build_default

parts=0
skipped=0
nfailed=0
failed=
beside= pids_beside=
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
# count_part NAME RESULT: one line, and one more in the count.
count_part() {
    parts=$((parts + 1))
    case $2 in
    FAILED*)
        nfailed=$((nfailed + 1))
        failed="$failed; $1"        # names have commas
        ;;
    esac
    printf '%-60s %s\n' "$1" "$2"
}
# report_part NAME: say how it went.
report_part() {
    log=$(log_of "$1")
    result=$(cat "$log.result")
    case $result in FAILED*) tail -n 60 "$log" ;; esac
    count_part "$1" "$result"
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
    pids_beside="$pids_beside $!"
    beside="$beside$1
"
}
join_parts() {
    wait $pids_beside       # and not for the bare systems
    while read -r name; do
        [ -z "$name" ] || report_part "$name"
    done <<LIST
$beside
LIST
    beside= pids_beside=
}

# system_parts NAME SUITE OPTION [PYTHON]: check.sh OPTION in a bare system of that suite,
# each of its parts a part here.
system_parts() {
    name=$1 suite=$2 option=$3
    log=$(log_of "$name")
    status=0
    PYTHON=${4-} "$top/Tools/in-debian" "$suite" sh Tools/check.sh "$option" >"$log" 2>&1 ||
        status=$?
    if [ "$status" = 3 ]; then
        skipped=$((skipped + 1))
        printf '%-60s skipped: %s\n' "$name" "$(sed -n 's/^in-debian: //p' "$log" | tail -n 1)"
        return
    fi
    [ "$status" = 0 ] || tail -n 60 "$log"
    grep '^failed beside others: ' "$log" || true
    # "NAME   ok (12 s)": its own lines; none where it never got so far.
    sed -n 's/^\(.*[^ ]\)  *\(\(ok\|FAILED\) ([0-9]* s)\)$/\1@\2/p' "$log" >"$log.parts"
    if [ "$status" != 0 ] && ! grep -q '@FAILED' "$log.parts"; then
        echo "set-up@FAILED (status $status)" >>"$log.parts"
    fi
    while IFS=@ read -r part result; do
        count_part "$name: $part" "$result"
    done <"$log.parts"
}

# c_tests DIR OPTION...: configure in build/DIR, compile without a warning, run
# the C tests.
c_tests() {
    directory=$top/build/$1
    shift
    configure_in "$directory" "$@"
    make -s -j"$(nproc)" -C "$directory" clean
    c_tests_again "$directory"
}

# c_tests_again DIRECTORY: compile what is not yet, run them.
c_tests_again() {
    make -s -j"$(nproc)" -C "$1" check >"$1/make.log" 2>&1 || {
        cat "$1/make.log"
        grep -h ':[FE]:' "$1"/*.log
        return 1
    }
    ! grep 'warning:' "$1/make.log"
}

# few_c_tests DIR OPTION...: without those of what the system does with memory, which take
# half of the time and are the same with another compiler.
few_c_tests() (
    export CK_EXCLUDE_TAGS=system
    c_tests "$@"
)

# c_tests_in_huge_pages DIR OPTION...: the same with every arena in them.
c_tests_in_huge_pages() (
    export PYTHON_PYMALLOC_HUGEPAGES=1
    c_tests "$@"
)

# c_tests_in_large_pages DIRECTORY: the same as on a kernel that has them.
c_tests_in_large_pages() (
    export CHECK_PAGE_SIZE=65536
    c_tests_again "$@"
)

# One after the other: both write the tarball.  The first builds beside sources that can't be
# written to, installs and uninstalls.
distribution() {
    make -s -j"$(nproc)" -C "$top/build" distcheck TESTS=contract &&
        "$top/Tools/check-dist.sh" "$top/build"
}

[ -z "$quick" ] || part "try.sh" sh "$top/Tools/try.sh"
if [ -n "$quick" ]; then
    [ -z "$with_c_tests" ] || part "C tests: default" c_tests default
else
    part "C tests: classic geometry, --with-pydebug" c_tests classic \
        --with-arena-bits=18 --with-pool-bits=12 --with-pydebug
    part "C tests: the same, pages of 64 KiB" c_tests_in_large_pages "$top/build/classic"
    part "C tests: --without-pymalloc" c_tests without-pymalloc --without-pymalloc
    # Valgrind 3.19 reads no clang's DWARF 5.
    part "C tests: clang, pystats, serial numbers, valgrind, probes" few_c_tests extras \
        CC=clang CFLAGS="-O2 -gdwarf-4" --without-mimalloc --without-pymalloc-hugepages \
        --enable-pystats --with-valgrind --with-dtrace CPPFLAGS=-DPYMEM_DEBUG_SERIALNO
    part "C tests: mimalloc in the raw domain, huge pages, the same options" \
        c_tests_in_huge_pages raw-mimalloc --with-raw-allocator=mimalloc \
        --enable-pystats --with-valgrind --with-dtrace CPPFLAGS=-DPYMEM_DEBUG_SERIALNO
    if [ -n "$multilib" ]; then
        part_beside "contract: 32-bit" "$top/Tools/contract-32bit.sh"
    fi
    part_beside "contract and faults: under Valgrind" "$top/Tools/check-valgrind.sh" \
        "$top/build/extras"
    part_beside "random programs against a model" "$top/Tools/fuzz.sh" 30
    part_beside "static analysis" "$top/Tools/check-analyzers"
    part_beside "make distcheck, and C tests: default, without autotools" distribution
    join_parts
fi
# One more file of tests at a time than there are processors, as some wait.  As regrtest
# --rerun of CPython: a few that fail beside others run again alone.  Those that pass then
# are named: each is a fault of its test, or one of ours that comes seldom.
failed_once=$top/build/check-pytest.failed-once
pytest_suite() {
    cd "$top"
    rm -f "$failed_once"
    if [ -n "$quick" ]; then
        export PYMEM_PYTHONS=own
        set -- -m "$marks"
    elif [ -n "$systems" ]; then
        export PYMEM_PYTHONS=older
    fi
    "$python" -m pytest -q -n $(($(nproc) + 1)) --dist=loadfile "$@" Lib/test && return
    sed -n 's/^\(FAILED\|ERROR\) \(.*\)/\2/p' "$(log_of pytest)" | sed 's/ - .*//' >"$failed_once"
    case $(wc -l <"$failed_once") in [1-5]) ;; *) return 1 ;; esac
    "$python" -m pytest -q --last-failed --last-failed-no-failures=none "$@" Lib/test
}
part "pytest" pytest_suite
case $result in
ok*) [ ! -e "$failed_once" ] || sed 's/^/failed beside others: /' "$failed_once" ;;
esac
grep '^[0-9].* in [0-9.]*s' "$top/build/check-pytest.log" || true
if [ -n "$quick" ]; then
    part "CPython's own tests, the 45 files that exercise memory most" \
        "$top/Tools/regrtest" --recorded
else
    part "CPython's own tests, all, against the record of stock" \
        "$top/Tools/regrtest" --all --recorded
    tail -n 1 "$top/build/check-CPython-s-own-tests--all--against-the-record-of-stock.log"
    part "CPython's own tests, PYTHONMALLOC=debug" \
        "$top/Tools/regrtest" --quick --malloc=debug
    # Blocks of the C library: what is ours there is little.
    for name in malloc malloc_debug; do
        part "CPython's own tests, PYTHONMALLOC=$name" "$top/Tools/regrtest" \
            --malloc="$name" test_sys test_thread test_fork1 test_list test_dict test_bytes
    done
    # Without the files that take minutes on stock, whose tracer is slower; make
    # regrtest and Doc/conformance.rst have them all.
    part "CPython's own tests, PYTHONTRACEMALLOC=5" \
        "$top/Tools/regrtest" --tracemalloc=5 test_tracemalloc test_sys test_thread \
        test_list test_dict test_memoryview test_array test_marshal test_gc
    part "CPython's own tests under pymem-run" \
        "$top/Tools/regrtest" --quick --run="$python"
fi
if [ -n "$systems" ]; then
    system_parts "Debian 13" trixie --quick
    system_parts "Debian testing" testing --quick
    system_parts "Debian testing, CPython 3.15" testing --python /usr/bin/python3.15
fi

[ -z "$failed" ] || printf 'failed: %s\n' "${failed#; }"
printf '%s passed, %s failed' $((parts - nfailed)) "$nfailed"
[ "$skipped" = 0 ] || printf ', %s skipped' "$skipped"
echo
[ "$nfailed" = 0 ]
