# Sourced by check-platforms: a CPython whose C library is musl, of which Debian has none.  It
# is compiled from Debian 13's source, without what needs other libraries, and runs as Alpine's
# would: with pymem linked into it, and under pymem-run.

# Memory, objects, threads and forks.  Not test_threading: a daemon thread of CPython reads its
# state after that was freed, which musl may have unmapped by then, so that stock crashes, too.
musl_files="test_tracemalloc test_dict test_list test_set test_array test_bytes test_struct
    test_json test_marshal test_pickle test_copy test_deque test_heapq test_generators test_gc
    test_weakref test_memoryview test_thread test_fork1 test_queue"

# CPython's configure takes a compiler of one word that does not name glibc's folder.
musl_compiler() {
    cat >"$there/cc" <<EOF
#!/bin/sh
case "\$*" in *-print-multiarch*) exit 0 ;; esac
exec $compiler "\$@"
EOF
    chmod +x "$there/cc"
}

compile_python() {
    [ ! -x "$musl_python" ] || return 0
    musl_compiler
    get_source python3.13 || return 1
    rm -rf "$there/python-build" "$there/python"
    mkdir -p "$there/python-build"
    cd "$there/python-build"
    PKG_CONFIG=false "$folder/python3.13/configure" -q CC="$there/cc" \
        --prefix="$there/python" --without-ensurepip &&
        make -s -j"$(nproc)" && make -s altinstall
}

link_python() {
    python=$musl_python configure_in "$there/linked" CC="$there/cc" LIBS="$libs" \
        --without-mimalloc &&
        make -s -j"$(nproc)" -C "$there/linked" &&
        CC="$there/cc" "$top/Tools/relink" --build="$there/linked" --with-python="$musl_python"
}

# Python loads it when the program runs already, with the library in it.
load_extension() {
    PYTHONPATH=$there/linked "$musl_python" -c 'import _testpymem'
}

# Threads have stacks of 128 KiB there.
trace_in_threads() {
    "$there/linked/python" -c '
import threading, tracemalloc

def deep(n):
    return deep(n - 1) if n else [bytes(1000) for _ in range(100)]

kept = []
tracemalloc.start(65_535)
for _ in range(3):
    thread = threading.Thread(target=lambda: kept.append(deep(900)))
    thread.start()
    thread.join()
length = max(len(trace.traceback) for trace in tracemalloc.take_snapshot().traces)
print(length, "frames")
assert length > 900'
}

check_musl_python() {
    musl_python=$there/python/bin/python3.13
    part "CPython 3.13 compiled" compile_python || return 0
    part "linked" link_python || return 0
    part "linked: 20 files of its tests" \
        "$top/Tools/regrtest" --build="$there/linked" $musl_files || :
    part "pymem-run: the same" \
        "$top/Tools/regrtest" --build="$there/linked" --run="$musl_python" $musl_files || :
    part "the library in an extension module" load_extension || :
    part "traces of 900 frames in threads" trace_in_threads || :
}
