#!/bin/sh
# The tarball of make dist, as people use it: nothing of the project is missing in it,
# and where no autotools are it configures, builds and passes make check, and try.sh
# works in it without asking for them.
#
#   Tools/check-dist.sh [BUILD]
#
# BUILD is a folder that was configured (build/); make dist runs in it.  From a clone:
# what git knows is what must be there.

set -eu
. "$(dirname "$0")/setup.sh"
build=${1:-$top/build}
[ -e "$build/Makefile" ] || fail "$build is not configured: sh Tools/try.sh does it"
build=$(cd "$build" && pwd)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

# The name of the tarball is make's to say, and the folder in it has the same.
name=$(sed -n 's/^PACKAGE_TARNAME = //p' "$build/Makefile")
name=$name-$(sed -n 's/^VERSION = //p' "$build/Makefile")
quietly make -s -C "$build" dist
mv "$build/$name.tar.gz" "$scratch"
tar -xzf "$scratch/$name.tar.gz" -C "$scratch"
mkdir "$scratch/try"
tar -xzf "$scratch/$name.tar.gz" -C "$scratch/try"

# Only a clone needs files whose name begins with a dot.
lost=$(cd "$top" && git ls-files | while read -r file; do
    case $file in .*) continue ;; esac
    [ -e "$scratch/$name/$file" ] || printf ' %s' "$file"
done)
[ -z "$lost" ] || fail "missing in the tarball (EXTRA_DIST in Makefile.am):$lost"

# All programs of this PATH but those that make configure and Makefile.in, and those that
# know which packages are installed or install them.
mkdir "$scratch/bin"
IFS=:
for folder in $PATH; do
    for program in "$folder"/*; do
        case ${program##*/} in
        auto* | aclocal* | autom4te* | ifnames | libtool* | m4 | gm4) continue ;;
        apt-get | dpkg-query | '*') continue ;;
        esac
        ! [ -x "$program" ] || [ -e "$scratch/bin/${program##*/}" ] ||
            ln -s "$program" "$scratch/bin"
    done
done
unset IFS
PATH=$scratch/bin
export PATH
for program in autoconf automake aclocal libtoolize autoreconf m4; do
    ! command -v $program >/dev/null || fail "$program is still found: $(command -v $program)"
done

cd "$scratch/$name"
quietly ./configure PYTHON="$python"
make -s -j"$(nproc)" all check >"$scratch/check.log" 2>&1 || {
    tail -n 40 "$scratch/check.log" >&2
    fail "make check failed"
}
grep '^# [A-Z]*:' "$scratch/check.log"
! grep -q '^# TOTAL: *0$' "$scratch/check.log" || fail "no test was run"
! grep 'warning:' "$scratch/check.log" >&2 || fail "compiled with warnings"

cd "$scratch/try/$name"
echo 'import sys; sys._debugmallocstats()' >"$scratch/stats.py"
PYTHON="$python" sh Tools/try.sh "$scratch/stats.py" >"$scratch/try.log" 2>&1 || {
    tail -n 40 "$scratch/try.log" >&2
    fail "try.sh failed where configure is there and autotools are not"
}
grep -q '^# pool map leaves' "$scratch/try.log" || fail "try.sh made no python of ours"
