#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the client library into an empty folder and builds the programs of docs/client.md with
# nothing but what is there: pkg-config for the first, CMake's find_package for the second.
# With a broker and a worker program both are then run against the real thing.
# usage: installed.sh SOURCE BUILD COMPILER [BROKER WORKER]
set -eu
source=$1 build=$2 compiler=$3 broker=${4:-} worker=${5:-}
dir=$(mktemp -d)
children=
trap 'for pid in $children; do kill -9 "$pid" || :; done 2>/dev/null; rm -rf "$dir"' EXIT
cmake --install "$build" --component client --prefix "$dir/usr" >"$dir/log"

# the n-th block of C that is a whole program
program() {
    awk -v want="$1" '
        /^```c$/ { text = ""; inside = 1; next }
        /^```$/ && inside { inside = 0; if (text ~ /int main/ && ++n == want) printf "%s", text }
        inside { text = text $0 "\n" }' "$source/docs/client.md"
}
program 1 >"$dir/one.c"
mkdir "$dir/project"
program 2 >"$dir/project/many.c"
grep -q tm_client_wait "$dir/one.c" && grep -q tm_client_fd "$dir/project/many.c"

libdir=$(dirname "$(find "$dir/usr" -name trackmill.pc)")/..
PKG_CONFIG_PATH=$libdir/pkgconfig
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
"$compiler" -std=c17 -Wall -Wextra -Werror "$dir/one.c" -o "$dir/one" \
    $(pkg-config --cflags --libs trackmill)

# and from C++, if there is a compiler
if command -v c++ >/dev/null; then
    awk '/^```cpp$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$source/docs/client.md" >"$dir/plus.cpp"
    grep -q trackmill.hpp "$dir/plus.cpp"
    # shellcheck disable=SC2046
    c++ -std=c++20 -Wall -Wextra -Werror "$dir/plus.cpp" -o "$dir/plus" \
        $(pkg-config --cflags --libs trackmill)
fi

cat >"$dir/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.22)
project(many LANGUAGES C)
set(CMAKE_C_STANDARD 17)
find_package(trackmill 0.1 REQUIRED)
add_executable(many many.c)
target_link_libraries(many PRIVATE trackmill::trackmill)
END
cmake -S "$dir/project" -B "$dir/project/build" -DCMAKE_PREFIX_PATH="$dir/usr" \
    -DCMAKE_C_COMPILER="$compiler" >>"$dir/log"
cmake --build "$dir/project/build" >>"$dir/log"

# nobody is there: the program must say so in one line, in time, and fail
LD_LIBRARY_PATH=$libdir
export LD_LIBRARY_PATH
if timeout 30 "$dir/one" tcp://127.0.0.1:1 2>"$dir/err"; then
    echo "the program found tracks without a broker"
    exit 1
fi
cat "$dir/err"
grep -q '^no_broker: .*tcp://127.0.0.1:1 refuses connections' "$dir/err"

# line PATTERN FILE: waits for it, prints it
line() {
    for _ in $(seq 200); do
        grep -m1 "$1" "$2" && return
        sleep 0.1
    done
    echo "no '$1' in 20 s" >&2
    exit 1
}
if [ -n "$broker" ]; then
    "$broker" --http off --client-endpoint 'tcp://127.0.0.1:*' \
        --worker-endpoint 'tcp://127.0.0.1:*' >"$dir/broker" 2>"$dir/broker.log" &
    children="$children $!"
    ready=$(line '^ready' "$dir/broker")
    clients=$(echo "$ready" | sed 's/.*clients=\([^ ]*\).*/\1/')
    workers=$(echo "$ready" | sed 's/.*workers=\([^ ]*\).*/\1/')
    "$worker" --backend mock --broker "$workers" >"$dir/worker" 2>"$dir/worker.log" &
    children="$children $!"
    line '^registered' "$dir/worker" >/dev/null
    "$dir/one" "$clients" >"$dir/out"
    cat "$dir/out"
    grep -q '^1 candidates by mock@1 on ' "$dir/out" && grep -q ': 0 1 2 3 4$' "$dir/out"
    if [ -x "$dir/plus" ]; then "$dir/plus" "$clients" | grep '^score 0\.[0-9]*: 0 1 2 3 4$'; fi
    "$dir/project/build/many" "$clients" | grep '^100 events, 0 without tracks$'
fi

# the shared library shows its own functions only
if command -v nm >/dev/null; then
    nm -D --defined-only "$libdir/libtrackmill.so" | awk '{ print $3 }' | sed 's/@.*//' |
        grep -v '^tm_\|^TRACKMILL_' && { echo "^ strangers among the symbols"; exit 1; }
fi
echo "installed: ok"
