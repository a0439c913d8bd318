/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates for tests, made with OpenSSL and written to files that end with the test. */
#ifndef TASKMILL_TEST_RPC_CERTS_H
#define TASKMILL_TEST_RPC_CERTS_H

struct cert {
    void *key, *x509; /* EVP_PKEY, X509 */
    char pem_path[64], key_path[64];
};

/* issuer NULL: an authority that signs itself. name: a DNS name or an IPv4 literal. */
struct cert *cert_new(const char *name, const struct cert *issuer);
/* The files become those of another certificate. */
void cert_copy_files(const struct cert *from, const struct cert *to);
void cert_free(struct cert *cert); /* and its files */

#endif
