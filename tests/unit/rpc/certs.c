/* SPDX-License-Identifier: Apache-2.0 */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "certs.h"

static void add_extension(X509 *x509, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, x509, x509, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);

    assert(extension);
    X509_add_ext(x509, extension, -1);
    X509_EXTENSION_free(extension);
}

static X509 *make(const char *name, EVP_PKEY *key, const struct cert *issuer)
{
    static long serial;
    X509 *x509 = X509_new();
    char names[80];

    X509_set_version(x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(x509), -60);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
                               (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(x509, X509_get_subject_name(issuer ? (X509 *)issuer->x509 : x509));
    (void)snprintf(names, sizeof(names), name[0] >= '0' && name[0] <= '9' ? "IP:%s" : "DNS:%s",
                   name);
    add_extension(x509, NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE");
    add_extension(x509, NID_subject_alt_name, names);
    int len = X509_sign(x509, issuer ? (EVP_PKEY *)issuer->key : key, EVP_sha256());
    assert(len > 0);
    return x509;
}

static FILE *open_temporary(char path[64])
{
    (void)snprintf(path, 64, "/tmp/taskmill-cert-XXXXXX");
    int fd = mkstemp(path);
    assert(fd >= 0);
    return fdopen(fd, "w");
}

struct cert *cert_new(const char *name, const struct cert *issuer)
{
    struct cert *cert = (struct cert *)calloc(1, sizeof(*cert));
    EVP_PKEY *key = EVP_EC_gen("P-256");

    cert->key = key;
    cert->x509 = make(name, key, issuer);
    FILE *file = open_temporary(cert->pem_path);
    PEM_write_X509(file, (X509 *)cert->x509);
    (void)fclose(file);
    file = open_temporary(cert->key_path);
    PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
    (void)fclose(file);
    return cert;
}

void cert_copy_files(const struct cert *from, const struct cert *to)
{
    FILE *file = fopen(to->pem_path, "w");
    PEM_write_X509(file, (X509 *)from->x509);
    (void)fclose(file);
    file = fopen(to->key_path, "w");
    PEM_write_PrivateKey(file, (EVP_PKEY *)from->key, NULL, NULL, 0, NULL, NULL);
    (void)fclose(file);
}

void cert_free(struct cert *cert)
{
    (void)unlink(cert->pem_path);
    (void)unlink(cert->key_path);
    EVP_PKEY_free((EVP_PKEY *)cert->key);
    X509_free((X509 *)cert->x509);
    free(cert);
}
