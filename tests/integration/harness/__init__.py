# SPDX-License-Identifier: Apache-2.0
"""What the integration tests stand on; conftest.py says how to use it."""

import os

# Before grpc is loaded: its handlers of fork() start threads in a child that is about to exec, and
# now and then kill it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
