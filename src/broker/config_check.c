/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that are more than a type and a range (spec/broker.md 2.6), and those that spare the start
 * a late surprise: addresses, and values the original takes and then dies of. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "broker/config_keys.h"

/* IPv6 is written in brackets, as in the original; whoever binds wants it without them. */
static int check_grpc_addr(struct config *cfg, struct err_text *why)
{
    unsigned char address[sizeof(struct in6_addr)];
    char *text = cfg->grpc_addr;
    size_t len = strlen(text);

    if (len > 2 && text[0] == '[' && text[len - 1] == ']') {
        memmove(text, text + 1, len - 2);
        text[len - 2] = 0;
    }
    if (inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1)
        return 0;
    return config_fail(cfg, why, "grpc_addr",
                       "grpc_addr must be an IP address such as 0.0.0.0 or [::], not \"%.60s\"",
                       text);
}

static int check_statsd_addr(struct config *cfg, struct err_text *why)
{
    const char *colon = strrchr(cfg->statsd_addr, ':');
    char *end = NULL;
    long port = 0;

    if (colon && colon != cfg->statsd_addr && colon[1] >= '0' && colon[1] <= '9')
        port = strtol(colon + 1, &end, 10);
    if (end && !*end && port >= 1 && port <= 65535)
        return 0;
    return config_fail(cfg, why, "statsd_addr",
                       "statsd_addr must be host:port with a port from 1 to 65535, not \"%.60s\"",
                       cfg->statsd_addr);
}

/* An IP literal: the port must not end up on an interface that somebody's resolver chose. */
static int check_admin_addr(struct config *cfg, struct err_text *why)
{
    unsigned char address[sizeof(struct in6_addr)];
    char host[64];
    const char *colon = cfg->admin_addr ? strrchr(cfg->admin_addr, ':') : NULL;
    size_t len = colon ? (size_t)(colon - cfg->admin_addr) : 0;
    char *end = NULL;
    long port = 0;

    if (!cfg->admin_addr)
        return 0;
    if (len > 0 && len < sizeof host && colon[1] >= '0' && colon[1] <= '9')
        port = strtol(colon + 1, &end, 10);
    if (end && !*end && port >= 1 && port <= 65535) {
        bool brackets = cfg->admin_addr[0] == '[' && colon[-1] == ']';
        snprintf(host, sizeof host, "%.*s", (int)(brackets ? len - 2 : len),
                 cfg->admin_addr + brackets);
        if (inet_pton(brackets ? AF_INET6 : AF_INET, host, address) == 1)
            return 0;
    }
    return config_fail(cfg, why, "admin_addr",
                       "admin_addr must be an IP address and a port such as 127.0.0.1:9464 or "
                       "[::1]:9464, or null for none, not \"%.60s\"",
                       cfg->admin_addr);
}

static int check_tls(struct config *cfg, struct err_text *why)
{
    if (cfg->grpc_tls_certificate_location && !cfg->grpc_tls_key_location)
        return config_fail(cfg, why, "grpc_tls_certificate_location",
                           "grpc_tls_certificate_location needs grpc_tls_key_location, the file of "
                           "the certificate's private key");
    if (cfg->grpc_tls_key_location && !cfg->grpc_tls_certificate_location)
        return config_fail(cfg, why, "grpc_tls_key_location",
                           "grpc_tls_key_location needs grpc_tls_certificate_location");
    if (cfg->grpc_tls_client_ca_location && !cfg->grpc_tls_certificate_location)
        return config_fail(cfg, why, "grpc_tls_client_ca_location",
                           "grpc_tls_client_ca_location needs grpc_tls_certificate_location and "
                           "grpc_tls_key_location: without them the port does not speak TLS");
    return 0;
}

static bool is_offset_reset(const char *text)
{
    static const char *const known[] = {"earliest", "latest",  "beginning", "end",
                                        "smallest", "largest", "error"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(text, known[i]) == 0)
            return true;
    return false;
}

static int check_offset_reset(struct config *cfg, struct err_text *why)
{
    static const char text[] = "must be earliest or latest";

    if (!is_offset_reset(cfg->kafka_auto_offset_reset))
        return config_fail(cfg, why, "kafka_auto_offset_reset",
                           "kafka_auto_offset_reset %s, not \"%.60s\"", text,
                           cfg->kafka_auto_offset_reset);
    for (size_t i = 0; i < cfg->topic_count; i++) {
        struct buf key = {0};
        int rv = 0;
        buf_printf(&key, "kafka_topics.%s.auto_offset_reset", cfg->topics[i].name);
        if (!is_offset_reset(cfg->topics[i].auto_offset_reset))
            rv = config_fail(cfg, why, buf_cstr(&key), "%s %s, not \"%.60s\"", buf_cstr(&key), text,
                             cfg->topics[i].auto_offset_reset);
        buf_free(&key);
        if (rv)
            return rv;
    }
    return 0;
}

static int check_rest(struct config *cfg, struct err_text *why)
{
    if (cfg->fetch.threads & (cfg->fetch.threads - 1))
        return config_fail(cfg, why, "fetch.threads",
                           "fetch.threads must be a power of two from 1 to 256, not %llu",
                           (unsigned long long)cfg->fetch.threads);
    if (cfg->worker_map.count == 0)
        return config_fail(cfg, why, "worker_map",
                           "worker_map must have an entry, such as {sentry: "
                           "\"http://127.0.0.1:50052\"}; leave it out for that one");
    if (cfg->default_topic_partitions == 0)
        return config_fail(
            cfg, why, "default_topic_partitions",
            "default_topic_partitions must be at least 1, or -1 for what the cluster is "
            "set to");
    return 0;
}

static void choose_grpc_threads(struct config *cfg)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    if (cfg->grpc_threads)
        return;
    cfg->grpc_threads = cpus < 1 ? 1 : cpus > 4 ? 4 : (uint32_t)cpus;
    config_origins_record(cfg, "grpc_threads", (struct config_where){CONFIG_FROM_DERIVED, NULL, 0},
                          NULL);
}

int config_validate(struct config *cfg, struct config_warnings *warnings, struct err_text *why)
{
    int rv;

    if ((rv = check_grpc_addr(cfg, why)) || (rv = check_statsd_addr(cfg, why)) ||
        (rv = check_admin_addr(cfg, why)) || (rv = check_tls(cfg, why)) ||
        (rv = check_offset_reset(cfg, why)) || (rv = check_rest(cfg, why)))
        return rv;
    choose_grpc_threads(cfg);
    cfg->full_vacuum_on_start_explicit =
        config_origin(cfg, "full_vacuum_on_start").source != CONFIG_FROM_DEFAULT;
    cfg->admin_addr_explicit = config_origin(cfg, "admin_addr").source != CONFIG_FROM_DEFAULT;
    if (cfg->sentry_dsn)
        config_warn(warnings, "sentry_dsn is set, but reporting to Sentry is not supported yet");
    return 0;
}
