"""Who is believed about a certificate, for our own TLS and for a library that brings its own."""

from pathlib import Path

import certifi
import pytest

from gimle.foundation import certificates

CERTIFICATE = (Path(__file__).parents[1] / "fixtures" / "tls" / "server.pem").read_bytes()


def test_the_authorities_of_this_machine_are_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenSSL has them: all in one file, and each in a file that is named by its hash."""
    one, folder = tmp_path / "all.pem", tmp_path / "each"
    folder.mkdir()
    one.write_bytes(b"# one\n" + CERTIFICATE)
    (folder / "0a1b2c3d.0").write_bytes(b"# by its hash\n" + CERTIFICATE)
    (folder / "README").write_bytes(b"# no certificate\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(one))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    told = certificates.authorities()
    assert told.startswith(b"# one\n")
    assert b"# by its hash\n" in told
    assert b"# no certificate" not in told
    assert len(certificates.verifying().get_ca_certs()) == 1


def test_a_machine_without_authorities_has_the_list_of_mozilla(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert certificates.authorities() == Path(certifi.where()).read_bytes()
    assert len(certificates.verifying().get_ca_certs()) > 50
