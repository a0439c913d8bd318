# SPDX-License-Identifier: Apache-2.0
# interchange_record.sh [FIRST]: the commands of test_interchange.py. Writes the line that
# interchange_app.py describes, without `left`, which a command is not told; asks for a retry on its
# first FIRST attempts.
set -eu
call=$(cat)
printf '{"runner":"command","task":"%s:%s","id":"%s","attempt":%s,"at":%s,"headers":%s,"call":%s}\n' \
    "$TASKMILL_TASK_NAMESPACE" "$TASKMILL_TASK_NAME" "$TASKMILL_TASK_ID" "$TASKMILL_TASK_ATTEMPT" \
    "$(date +%s.%N)" "$TASKMILL_TASK_HEADERS" "$call" |
    dd bs=64M iflag=fullblock status=none >>"$INTERCHANGE_RESULTS"
if [ "$TASKMILL_TASK_ATTEMPT" -lt "${1:-0}" ]; then
    exit 75
fi
