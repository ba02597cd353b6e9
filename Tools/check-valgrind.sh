#!/bin/sh
# What Valgrind sees of a program on a library built with --with-valgrind.
#
#   sh Tools/check-valgrind.sh [BUILD]
#
# The contract must run without an error or a leak; a leak, an overrun, an
# underrun, a write after free and a second free must be found and the line
# that allocated the block be named, in each domain, in small and large blocks.

set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$top/build/extras}
grep -q '^#define WITH_VALGRIND' "$build/pyconfig.h" || {
    echo "check-valgrind.sh: $build was not configured --with-valgrind" >&2
    exit 1
}
valgrind="valgrind -q --error-exitcode=9 --leak-check=full"

$valgrind "$build/contract"
found=0
for domain in 0 1 2; do
    for size in 1 37 512 900; do
        $valgrind "$build/faults" none $domain $size
        while read -r fault message; do
            report=$($valgrind "$build/faults" "$fault" $domain $size 2>&1) && status=0 || status=$?
            if [ $status != 9 ] ||
               ! echo "$report" | grep -q "$message" ||
               ! echo "$report" | grep -q "[(/]faults\.c:"; then
                echo "$report"
                echo "check-valgrind.sh: $fault in domain $domain, $size bytes: not found"
                exit 1
            fi
            found=$((found + 1))
        done <<LIST
leak definitely lost
overrun 0 bytes after a block of size $size alloc
underrun 1 bytes before a block of size $size alloc
after-free inside a block of size $size free
twice Invalid free
LIST
    done
done
echo "$found of $found faults found and named"
