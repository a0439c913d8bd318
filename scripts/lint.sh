#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over the C sources that build/ knows how to compile (see ./dev lint --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v clang-tidy >/dev/null || scripts/setup.sh test

case ${1-} in
--changed)
    base=$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD)
    mapfile -t wanted < <({
        git diff --name-only --diff-filter=d "$base" -- '*.c'
        git ls-files --others --exclude-standard -- '*.c'
    } | sort -u)
    ;;
-*)
    echo "./dev lint: does not know '$1'; ./dev lint --help tells more" >&2
    exit 2
    ;;
'') mapfile -t wanted < <(git ls-files --cached --others --exclude-standard -- '*.c') ;;
*) wanted=("$@") ;;
esac

# A file that no build line names (an example of its own, say) cannot be checked. One that several lines
# name (the simulator compiles the engine once for each planted bug) is checked once, as it is shipped.
mapfile -t files < <(python3 - "${wanted[@]}" <<'PYTHON'
import json, os, sys
with open("build/compile_commands.json") as commands:
    every = json.load(commands)
known = {}
for command in sorted(every, key=lambda c: "-DTASKMILL_PLANT=" in c["command"]):
    known.setdefault(os.path.relpath(os.path.join(command["directory"], command["file"])), command)
os.makedirs("build/lint", exist_ok=True)
with open("build/lint/compile_commands.json", "w") as once:
    json.dump(list(known.values()), once)
for name in sys.argv[1:]:
    if os.path.normpath(name) in known:
        print(name)
    else:
        print(f"lint: skipped {name}: build/ does not compile it", file=sys.stderr)
PYTHON
)
[ ${#files[@]} -gt 0 ] || {
    echo "lint: no file to check"
    exit 0
}

# Flags that only gcc knows are in the build's command lines.
printf '%s\0' "${files[@]}" |
    xargs -0 -n 1 -P "$(nproc)" clang-tidy -p build/lint --quiet --warnings-as-errors='*' \
        --extra-arg=-Wno-unknown-warning-option 2> >(grep -v 'warnings\? generated' >&2) || {
    echo "lint: fix these, or excuse a line with NOLINTNEXTLINE(check): reason"
    exit 1
}
echo "lint: ${#files[@]} files, nothing found"
