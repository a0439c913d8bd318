# SPDX-License-Identifier: Apache-2.0
"""Programs that the tests run as clients of the broker, and what counts their work."""
