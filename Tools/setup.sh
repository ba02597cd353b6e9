# Sourced by try.sh, check.sh, in-debian and others: packages, configure, make, relink.
#
#   need_packages PACKAGE...    install what is missing, saying so first
#   need_python                 the same for $python: headers, archives, libraries
#   build_default               build/: library, substitute, stock interpreter
#
# Sets $top, the folder of the project, and $python, the CPython that is linked and
# tested with: PYTHON of the environment, or the system's own.

top=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-/usr/bin/python3}

# configure, automake and libtool take no name with a space, a quote or a comma: a link
# leads to such a folder.  The same one each time, in a folder that is ours alone.
case $top in
*[!-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._+@%=~]*)
    links=/tmp/pymem-links-$(id -u)
    mkdir -m 700 "$links" 2>/dev/null || [ -d "$links" ] && [ -O "$links" ] &&
        [ ! -L "$links" ] || {
        printf '%s: %s is not a folder of yours\n' "$(basename "$0")" "$links" >&2
        exit 1
    }
    link=$links/$(printf '%s' "$top" | cksum | tr ' ' -)
    ln -sfn "$top" "$link"
    printf '%s: working in %s through the link %s\n' "$(basename "$0")" "$top" \
        "$link" >&2
    top=$link
    ;;
esac

say() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# configure_is_made: is configure there, as in the tarball of make dist, and not older
# than what it is made from?
configure_is_made() {
    [ -e "$top/configure" ] && [ ! "$top/configure.ac" -nt "$top/configure" ] &&
        [ ! "$top/Makefile.am" -nt "$top/Makefile.in" ]
}

# What try.sh needs beside a Python; check.sh adds to it.
build_packages="gcc make pkg-config libc6-dev libmimalloc-dev"
configure_is_made || build_packages="$build_packages autoconf automake libtool"

# is_there PACKAGE: is it installed, or where there is no dpkg, what it brings?
is_there() {
    if command -v dpkg-query >/dev/null; then
        state=$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) || state=
        [ "$state" = installed ]
        return
    fi
    case $1 in
    libc6-dev) header=stdio.h ;;
    libexpat1-dev) header=expat.h ;;
    zlib1g-dev) header=zlib.h ;;
    libzstd-dev) header=zstd.h ;;
    check) header=check.h ;;
    systemtap-sdt-dev) header=sys/sdt.h ;;
    valgrind) header=valgrind/valgrind.h ;;
    # Used where found.
    libmimalloc-dev | gcc-multilib | libclang-rt-* | lld | wasi-libc) return 0 ;;
    libc6-dev-*-cross) return 0 ;;              # the compiler says what it misses
    gcc-*-linux-gnu*) command -v "${1#gcc-}-gcc" >/dev/null; return ;;
    qemu-user) command -v qemu-aarch64 >/dev/null; return ;;
    libpython3*-dev | libb2-1) return 0 ;;      # relink says what it misses
    gunicorn | python3-gevent | uvicorn | uwsgi-core | uwsgi-plugin-*) return 0 ;;
    libtool) command -v libtoolize >/dev/null; return ;;
    python3*-venv) "$python" -c 'import ensurepip' 2>/dev/null; return ;;
    python3-pil) "$python" -c 'import PIL' 2>/dev/null; return ;;
    furo) "$python" -c 'import furo' 2>/dev/null; return ;;
    python3-pytest-xdist) "$python" -c 'import xdist' 2>/dev/null; return ;;
    python3-?*) "$python" -c "import ${1#python3-}" 2>/dev/null; return ;;
    libpython3*-testsuite) "$python" -c 'import test.support' 2>/dev/null; return ;;
    *) command -v "$1" >/dev/null; return ;;
    esac
    echo "#include <$header>" | ${CC:-cc} -E - >/dev/null 2>&1
}

need_packages() {
    missing=
    for package; do
        is_there "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null ||
        fail "these Debian packages, or what brings the same, are needed, and there is no apt-get:$missing"
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
    # Another apt-get, as of a system that updates itself, is waited for.
    if ! { $as_root apt-get update &&
           $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
               ${line#apt-get }; } >"$log" 2>&1
    then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get failed. What was tried: $line"
    fi
    rm -f "$log"
}

# Its version decides which packages those are, and relink knows.
need_python() {
    case ${PYTHON-} in
    '') need_packages python3 ;;
    /usr/bin/python3.*) need_packages "${PYTHON#/usr/bin/}" ;;
    esac
    command -v "$python" >/dev/null ||
        fail "there is no program $python; PYTHON takes the path of a CPython 3.10 to 3.15"
    packages=$("$top/Tools/relink" --with-python="$python" --packages) || exit 1
    need_packages $packages
    # What an archive lacks that was installed just now is known only now.
    if [ -n "$missing" ]; then
        packages=$("$top/Tools/relink" --with-python="$python" --packages) || exit 1
        need_packages $packages
    fi
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
    if ! configure_is_made; then
        say "making configure"
        mkdir -p "$top/m4"
        (cd "$top" && quietly autoreconf -fi)
    fi
    options="PYTHON=$python${*:+ $*}"
    if [ -e "$directory/Makefile" ] && [ "$directory/options" -nt "$top/configure" ] &&
       [ "$(cat "$directory/options")" = "$options" ]; then
        return 0
    fi
    say "configuring in $directory: $options"
    mkdir -p "$directory"
    (cd "$directory" && quietly "$top/configure" PYTHON="$python" "$@")
    printf '%s\n' "$options" >"$directory/options"
}

build_default() {
    configure_in "$top/build"
    quietly make -s -j"$(nproc)" -C "$top/build"
    "$top/Tools/relink" --with-python="$python" --build="$top/build" >&2 || exit 1
}
