#!/usr/bin/env bash
# Makes an object file of coincidence.snn and links it with main.c; needs a linker and a C compiler for main.c only.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${SNNC:-snnc}" build "$here/coincidence.snn" --target object -o "$work"
cc -I"$work" "$here/main.c" "$work/coincidence.o" -lm -o "$work/coincidence"
"$work/coincidence"
