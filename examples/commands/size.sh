# SPDX-License-Identifier: Apache-2.0
# size(...): writes how long its parameters are to the worker's log.
set -eu
wc -c >&2
