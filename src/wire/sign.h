/* SPDX-License-Identifier: Apache-2.0 */
/* Request signature (spec/broker.md 5.6): lower-case hex HMAC-SHA256(secret, path ":" message),
 * where message is the serialised request without the gRPC frame prefix. Thread-safe. */
#ifndef TASKMILL_WIRE_SIGN_H
#define TASKMILL_WIRE_SIGN_H

#include "base/bytes.h"

#define SIGN_HEX_LEN 64

void sign_request(char out[SIGN_HEX_LEN + 1], struct bytes secret, struct bytes path,
                  struct bytes message);
/* Constant-time comparison with every secret; hex of either case. */
bool sign_verify(struct bytes signature, const struct bytes *secrets, size_t secret_count,
                 struct bytes path, struct bytes message);

/* SHA-256 of the concatenation of `parts`. */
void sha256(uint8_t out[32], const struct bytes *parts, size_t count);

#endif
