# SPDX-License-Identifier: Apache-2.0
"""A Kafka that asks who is there: SASL (PLAIN and SCRAM-SHA-256) and TLS listeners beside the open one."""

import subprocess

from confluent_kafka.admin import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from harness.kafka import Kafka

USER, PASSWORD = "taskmill", "op3n-s3same"
MODULES = "org.apache.kafka.common.security"

PROPERTIES = """\
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl_plaintext.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.ssl.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.crt
"""


class SecureKafka(Kafka):
    """clusters: {"PLAIN", "SCRAM", "SSL": the right settings of a cluster in a broker's configuration}."""

    def __init__(self, folder, heap_mb=256):
        folder.mkdir(parents=True, exist_ok=True)
        self._certificates(folder)
        super().__init__(folder, heap_mb, ("SASL_PLAINTEXT", "SSL"),
                         PROPERTIES.format(modules=MODULES, user=USER, password=PASSWORD, folder=folder))
        sasl = {"address": self.addresses["SASL_PLAINTEXT"], "security_protocol": "sasl_plaintext",
                "sasl_username": USER, "sasl_password": PASSWORD}
        self.clusters = {
            "PLAIN": {**sasl, "sasl_mechanism": "PLAIN"},
            "SCRAM": {**sasl, "sasl_mechanism": "SCRAM-SHA-256"},
            "SSL": {"address": self.addresses["SSL"], "security_protocol": "ssl",
                    "ssl_ca_location": str(folder / "ca.crt"),
                    "ssl_certificate_location": str(folder / "client.crt"),
                    "ssl_key_location": str(folder / "client.key")},
        }

    def set_scram_password(self, password):
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        change = UserScramCredentialUpsertion(USER, credential, password.encode())
        self._admin.alter_user_scram_credentials([change])[USER].result(30)

    def _certificates(self, folder):
        """A CA, what it signed for the server and a client, and another CA that nobody knows."""
        def openssl(*args):
            subprocess.run(["openssl", *map(str, args)], cwd=folder, check=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        for ca in ("ca", "stranger"):
            openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2,
                    "-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.crt")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        for name in ("server", "client"):
            openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                    "-keyout", f"{name}.key", "-out", f"{name}.csr")
            openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                    "-days", 2, "-extfile", "names", "-out", f"{name}.crt")
        (folder / "server.pem").write_text((folder / "server.key").read_text() +
                                           (folder / "server.crt").read_text())
