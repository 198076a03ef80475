# SPDX-License-Identifier: BSD-2-Clause
"""Makes folders with certificates as godwit's --tls wants them."""

import subprocess


def run(*command):
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def make(folder, host):
    """An authority, and certificates of it: the server's for `host`, and the client's."""
    folder.mkdir()
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=authority", "-keyout", folder / "ca-key.pem", "-out",
        folder / "ca-cert.pem")
    for name, common, purpose in (("server", host, "serverAuth"), ("client", "client", "clientAuth")):
        run("openssl", "req", *key, "-subj", f"/CN={common}", "-keyout", folder / f"{name}-key.pem", "-out",
            folder / f"{name}.csr")
        (folder / "extensions").write_text(f"subjectAltName=DNS:{common}\nextendedKeyUsage={purpose}\n")
        run("openssl", "x509", "-req", "-days", "2", "-in", folder / f"{name}.csr", "-CA", folder / "ca-cert.pem", "-CAkey",
            folder / "ca-key.pem", "-CAcreateserial", "-extfile", folder / "extensions", "-out", folder / f"{name}-cert.pem")
    return folder
