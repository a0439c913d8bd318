# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by the openssl command."""

import subprocess
from pathlib import Path


def _openssl(*argv):
    done = subprocess.run(["openssl", *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, f"openssl {argv[0]}: {done.stderr}"


class Authority:
    """An authority in a folder; each certificate is NAME.pem and NAME.key there.

        ca = Authority(tmp_path, "ca")
        pem, key = ca.issue("server", names=["DNS:localhost", "IP:127.0.0.1"])
    """

    def __init__(self, folder, name):
        self.folder = Path(folder)
        self.name = name
        self.pem, self.key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                 "-keyout", self.key, "-out", self.pem, "-days", "2", "-subj", f"/CN={name}",
                 "-addext", "basicConstraints=critical,CA:TRUE")

    def issue(self, name, names=(), expired=False):
        """(certificate, key) as paths; names as in subjectAltName."""
        pem, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        _openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                 "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions.write_text(f"subjectAltName={','.join(names)}\n" if names else "")
        # A negative number of days: it ended before it began, which is expired for everybody.
        _openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key,
                 "-CAcreateserial", "-days", "-1" if expired else "2", "-extfile", extensions,
                 "-out", pem)
        return pem, key
