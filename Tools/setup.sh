# Sourced by try.sh and check.sh: packages, configure, make, relink.
#
#   need_packages PACKAGE...    install what is missing, saying so first
#   build_default               build/: library, substitute, stock interpreter
#
# Sets $top, the folder of the project.

top=$(cd "$(dirname "$0")/.." && pwd)

# What try.sh needs; check.sh adds to it.
build_packages="gcc make autoconf automake libtool pkg-config libc6-dev
    python3 libpython3.11-dev libexpat1-dev zlib1g-dev libmimalloc-dev"

say() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

need_packages() {
    missing=
    for package; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
        [ "$state" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null ||
        fail "these Debian packages are needed, and there is no apt-get:$missing"
    line="apt-get install -y --no-install-recommends$missing"
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=sudo
    else
        fail "neither root nor sudo. Please run as root: $line"
    fi
    say "installing with apt-get:$missing"
    log=$(mktemp)
    if ! { $as_root apt-get update &&
           $as_root env DEBIAN_FRONTEND=noninteractive $line; } >"$log" 2>&1
    then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get failed. What was tried: $line"
    fi
    rm -f "$log"
}

# Run a command quietly; show what it printed when it fails.
quietly() {
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        fail "failed: $*"
    fi
    rm -f "$log"
}

# configure_in DIR OPTION...: configure there, unless it was done with the same
# options by the same configure.
configure_in() {
    directory=$1
    shift
    if [ ! -e "$top/configure" ] || [ "$top/configure.ac" -nt "$top/configure" ] ||
       [ "$top/Makefile.am" -nt "$top/Makefile.in" ]; then
        say "making configure"
        mkdir -p "$top/m4"
        (cd "$top" && quietly autoreconf -fi)
    fi
    options="$*"
    if [ -e "$directory/Makefile" ] && [ "$directory/options" -nt "$top/configure" ] &&
       [ "$(cat "$directory/options")" = "$options" ]; then
        return 0
    fi
    say "configuring in $directory: ${options:-default options}"
    mkdir -p "$directory"
    (cd "$directory" && quietly "$top/configure" "$@")
    printf '%s\n' "$options" >"$directory/options"
}

build_default() {
    configure_in "$top/build"
    quietly make -s -j"$(nproc)" -C "$top/build"
    "$top/Tools/relink" --build="$top/build" >&2 || exit 1
}
