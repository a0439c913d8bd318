# SPDX-License-Identifier: Apache-2.0
# What a task writes to stderr is in the worker's log.
echo "hello, parameters: $(cat)" >&2
