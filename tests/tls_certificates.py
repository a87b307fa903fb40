"""A certificate authority of our own and one that signed nothing; a server's certificate for `localhost` and for no address.

Nodes of a cluster show theirs to one another as clients too.
"""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

AUTHORITY_CNF = """\
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
SERVER_EXTENSIONS = """\
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost
"""


@dataclass(frozen=True)
class Certificates:
    """Files, and what is made of them: new for each call, as contexts keep what is set in them."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def another(self) -> Path:
        """An authority that signed nothing."""
        return self.folder / "another.pem"

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    def stranger(self) -> ssl.SSLContext:
        """Trusts nobody."""
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def certificates(folder: Path) -> Certificates:
    """In `server.pem` and `server.key`, with `authority.pem` and `another.pem`."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl on PATH")

    def openssl(*command: str) -> None:
        subprocess.run(("openssl", *command), cwd=folder, check=True, capture_output=True)

    # Since Python 3.13 the default context is strict (RFC 5280): key usages and key identifiers have to be there.
    (folder / "authority.cnf").write_text(AUTHORITY_CNF)
    (folder / "server.ext").write_text(SERVER_EXTENSIONS)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout")
    for name in ("authority", "another"):
        made = ("-config", "authority.cnf", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")
        openssl("req", "-x509", *key, f"{name}.key", *made)
    openssl("req", *key, "server.key", "-out", "server.csr", "-subj", "/CN=a server")
    signer = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "server.csr", *signer, "-out", "server.pem", "-days", "2", "-extfile", "server.ext")
    return Certificates(folder)
