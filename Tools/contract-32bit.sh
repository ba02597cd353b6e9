#!/bin/sh
# Compile the library with gcc -m32 and run the contract program on it, in the
# default geometry and with debug hooks.
set -eu
. "$(dirname "$0")/setup.sh"
for options in "" "--with-pydebug"; do
    directory=$top/build/m32$options
    mkdir -p "$directory"
    cd "$directory"
    [ -e Makefile ] && [ Makefile -nt "$top/configure" ] ||
        "$top/configure" -q --host=i686-linux-gnu CC="gcc -m32" \
            --without-mimalloc $options
    make -s libpymem.la contract
    said=$(./contract)
    echo "${options:-default}: $said"
    case $said in
    *" 32-bit") ;;
    *) exit 1 ;;
    esac
done
