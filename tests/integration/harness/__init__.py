# SPDX-License-Identifier: Apache-2.0
"""What the integration tests stand on; conftest.py says how to use it."""
