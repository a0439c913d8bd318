#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-format over the C sources (see ./dev fmt --help). Other versions of it format otherwise, so only
# version 14 will do: Debian 12's, or the same release from Python's package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_clang_format() {
    local candidate
    for candidate in clang-format-14 clang-format; do
        if "$candidate" --version 2>/dev/null | grep -q 'version 14\.'; then
            echo "$candidate"
            return
        fi
    done
    candidate=$(python3 tests/integration/harness/cache.py venv format)
    echo "$(dirname "$candidate")/clang-format"
}

mode=-i
if [ "${1-}" = --check ]; then
    mode=--dry-run
    shift
fi
if [ $# -gt 0 ]; then
    files=("$@")
else
    mapfile -t files < <(git ls-files --cached --others --exclude-standard -- '*.c' '*.h')
fi
for file in "${files[@]}"; do
    [ -f "$file" ] || {
        echo "./dev fmt: $file is not there" >&2
        exit 2
    }
done
[ ${#files[@]} -gt 0 ] || exit 0

clang_format=$(find_clang_format)
if [ "$mode" = -i ]; then
    "$clang_format" -i "${files[@]}"
    # It leaves section banners alone (.clang-format); here they lose the dashes beyond column 100.
    perl -i -pe 'if (m{^/\* --- .*- ?\*/$} && (my $over = length($_) - 1 - 100) > 0) {
        s{-{$over}(?= ?\*/$)}{};
    }' "${files[@]}"
    exit 0
fi
status=0
# In batches: most of its time goes into being started.
findings=$(printf '%s\0' "${files[@]}" |
    xargs -0 -n 20 -P "$(nproc)" "$clang_format" --dry-run -Werror 2>&1) || status=1
sed -n 's/^\([^: ]*\):[0-9]*:[0-9]*: error:.*/\1:1: not formatted: run .\/dev fmt/p' <<<"$findings" | sort -u
exit $status
