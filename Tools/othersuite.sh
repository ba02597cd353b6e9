# Sourced by check-platforms and check-kernels: packages of another suite of Debian.
#
#   get_of_suite SUITE FOLDER COMMAND...    apt-get COMMAND in FOLDER, as that suite has it
#                                           (for $architecture, where that is set)
#
# The system's apt forgets nothing by it, and learns no other suite: these lists are elsewhere,
# in $lists.  A mirror may be some weeks old.

get_of_suite() {
    suite=$1 into=$2
    shift 2
    apt=$lists/$suite${architecture:+-$architecture}
    mirror=$(apt-get indextargets --format '$(SITE)' | grep '/debian/*$' | head -n 1)
    mkdir -p "$into" "$apt/sources" "$apt/lists/partial"
    cat >"$apt/sources/$suite.sources" <<END
Types: deb deb-src
URIs: ${mirror:-http://deb.debian.org/debian}
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    # Lists of yesterday name packages that are no more.
    if [ -z "$(find "$apt" -name is-read -mtime -1)" ]; then
        apt_of_suite update || return 1
        touch "$apt/is-read"
    fi
    (cd "$into" && apt_of_suite "$@")
}

apt_of_suite() {
    program=apt-get
    [ "$1" != show ] || program=apt-cache
    $program -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt/sources" \
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache::pkgcache="$apt/pkgcache.bin" \
        -o Dir::Cache::srcpkgcache="$apt/srcpkgcache.bin" -o APT::Sandbox::User= \
        ${architecture:+-o APT::Architecture=$architecture -o APT::Architectures=$architecture} \
        -o Acquire::Check-Valid-Until=false "$@"
}
