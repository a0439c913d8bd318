#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo of README.md; `./dev demo` builds what it needs and calls this.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${TASKMILL_BUILD:-$here/../../build}
exec "$build/taskmill" demo --module "$build/examples/demo_tasks.so" \
    --commands "$here/tasks.yml" "$@"
