# SPDX-License-Identifier: Apache-2.0
# checksum(text): a checksum of the parameters, as they came.
set -eu
parameters=$(cat)
case $parameters in
'{"args":['*) ;;
*)
    echo "task $TASKMILL_TASK_ID: these are no parameters: $parameters" >&2
    exit 1
    ;;
esac
sum=$(printf %s "$parameters" | cksum)
[ -n "$sum" ]
