#!/bin/sh
# Lines and branches of Objects/ and Python/ that the tests in C and Python execute.
#
#   sh Tools/coverage.sh
#
# Ends with a summary, and the list of lines that nothing executed; the pages of
# each file are in build/coverage/html.

set -eu
. "$(dirname "$0")/setup.sh"
home=$top/build/coverage
mkdir -p "$home"
gcc -O1 -fPIC -c "$top/Misc/coverage.c" -o "$home/coverage.o"
status=0
tracefiles=
lcov="lcov -q --rc lcov_branch_coverage=1"

# build NAME OPTION...: configure there, make, run the C tests.
build() {
    directory=$home/$1
    shift
    mkdir -p "$directory"
    cd "$directory"
    if [ ! -e Makefile ] || [ "$top/configure" -nt Makefile ]; then
        "$top/configure" -q CFLAGS="-g -O0 --coverage -fprofile-update=atomic" \
            LIBS="$home/coverage.o" "$@" >/dev/null
    fi
    find . -name '*.gcda' -delete
    make -s -j"$(nproc)" >make.log 2>&1 || { tail make.log; exit 1; }
    make -s -j"$(nproc)" check >>make.log 2>&1 || {
        grep -h ':[FE]:' ./*.log
        echo "coverage.sh: make check failed in $directory"
        status=1
    }
}

collect() {
    $lcov -c -d Objects -d Python -o all.info 2>lcov.log
    $lcov -e all.info "$top/Objects/*" "$top/Python/*" -o test.info
    tracefiles="$tracefiles -a $PWD/test.info"
}

# The tests in Python, with the interpreter; not those of tools, which link without
# these flags.
build default
# Also for the other versions that the tests link.
LDFLAGS="--coverage $home/coverage.o"
export LDFLAGS
"$top/Tools/relink" --build="$PWD" >/dev/null
./fuzz_pymem 10 >/dev/null
PYMEM_BUILD=$PWD /usr/bin/python3 -m pytest -q "$top/Lib/test" --ignore="$top/Lib/test/test_relink.py" \
    --ignore="$top/Lib/test/test_install.py" --ignore="$top/Lib/test/test_tools.py" \
    --ignore="$top/Lib/test/test_bench.py" >pytest.log 2>&1 || {
    tail -n 5 pytest.log
    status=1
}
collect
build pydebug --with-pydebug
collect
PYTHON_PYMALLOC_HUGEPAGES=1
export PYTHON_PYMALLOC_HUGEPAGES
build raw-mimalloc --with-raw-allocator=mimalloc
collect

cd "$home"
$lcov $tracefiles -o test.info
genhtml -q --branch-coverage --prefix "$top" -o html test.info
python3 - test.info "$top" <<'PYTHON'
import sys
path, top = sys.argv[1:]
total = {"line": [0, 0], "branch": [0, 0]}
for record in open(path).read().split("end_of_record\n")[:-1]:
    file, missed, here = "", [], {"line": [0, 0], "branch": [0, 0]}
    for line in record.splitlines():
        kind, _, rest = line.partition(":")
        fields = rest.split(",")
        if kind == "SF":
            file = rest.removeprefix(top + "/")
        elif kind == "DA":
            here["line"][0] += fields[1] != "0"
            here["line"][1] += 1
            if fields[1] == "0":
                missed.append(fields[0])
        elif kind == "BRDA":
            here["branch"][0] += fields[3] not in "0-"
            here["branch"][1] += 1
    print(f"{file:28}", *(f"{what} {hit}/{n}" for what, (hit, n) in here.items()),
          "not executed: " + " ".join(missed) if missed else "")
    for what in total:
        total[what] = [a + b for a, b in zip(total[what], here[what])]
for what, (hit, n) in total.items():
    print(f"{what:6} {hit} of {n}, {100 * hit / n:.1f} %")
PYTHON
exit $status
