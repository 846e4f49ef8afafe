"""An S3 server whose certificate a private authority signed: one variable is enough for both clients."""

import datetime
import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from limaml import storage
from limaml.errors import StorageError


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a private authority")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    (folder / "certificate.pem").write_bytes(signed.public_bytes(pem))
    return str(folder / "certificate.pem"), str(folder / "key.pem")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Path of the authority's certificate; the process talks to a server that it vouches for."""
    path, key = certificate(tmp_path)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=(path, key))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    storage._s3_client.cache_clear()
    storage._s3_filesystem.cache_clear()
    yield path
    server.shutdown()
    storage._s3_client.cache_clear()
    storage._s3_filesystem.cache_clear()


def test_both_clients_trust_it_by_one_variable(authority: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", authority)
    boto3.client("s3").create_bucket(Bucket="closed")
    assert storage.create_exclusive("s3://closed/lease", b"mine")
    assert not storage.create_exclusive("s3://closed/lease", b"theirs")
    storage.write_bytes("s3://closed/folder/file", b"content")
    assert storage.read_bytes("s3://closed/folder/file") == b"content"


def test_without_it_neither_does_and_both_say_why(authority: str) -> None:
    for action in (storage.create_exclusive, storage.write_bytes):
        with pytest.raises(StorageError, match=r"(?i)certificate"):
            action("s3://closed/x", b"")
