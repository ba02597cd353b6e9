#!/bin/sh
# Build everything that is needed and run a script on a Python that has this
# memory subsystem; without a script, a sample.
#
#   sh Tools/try.sh [script.py args...]
#
# The CPython is the system's own python3, or PYTHON=/path/python3.15, 3.10 to 3.15.

set -eu
case ${1-} in
-h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
-*)
    echo "try.sh: unknown option $1" >&2
    echo "usage: sh Tools/try.sh [script.py args...]" >&2
    exit 2
    ;;
esac
. "$(dirname "$0")/setup.sh"

need_packages $build_packages
need_python
build_default
[ $# -gt 0 ] || set -- "$top/Tools/sample.py"
exec "$top/build/python" "$@"
