"""Whose word counts for a certificate: the authorities of this machine, and Mozilla's list where it has none."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import certifi


def verifying() -> ssl.SSLContext:
    """The context of a client that believes them."""
    return ssl.create_default_context(cafile=None if any(_own()) else certifi.where())


def authorities() -> bytes:
    """Their certificates as PEM, for a library that speaks TLS by itself."""
    files = list(_own()) or [Path(certifi.where())]
    return b"\n".join(file.read_bytes() for file in files)


def _own() -> Iterator[Path]:
    """The machine's own files, as OpenSSL finds them: one with all, and a folder of files named by a hash."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        yield Path(paths.cafile)
    if paths.capath:
        yield from (file for file in sorted(Path(paths.capath).glob("????????.[0-9]*")) if file.is_file())
