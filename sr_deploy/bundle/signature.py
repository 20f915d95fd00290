"""Signing a bundle: who made it, told by a key pair, without a network.

The signature is the file `bundle.sig`, in the format of sigstore's model-signing 1.x: a sigstore bundle with a DSSE
envelope around an in-toto statement that lists files and their SHA-256. So that tool verifies what is signed here, and
what it signed with a key is verified here.

Signed is what never changes: the manifest, the weights, the graphs, the report of INT8. What machines add later is not:
engines, caches, the certificate and its page.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, ValidationError

from sr_deploy.bundle.certificate import Check
from sr_deploy.bundle.documents import read_record
from sr_deploy.bundle.engine_folder import CACHES_FOLDER
from sr_deploy.bundle.records import ENGINES_FOLDER, Manifest, Sha256
from sr_deploy.bundle.store import CERTIFICATE_NAME, MANIFEST_NAME, PAGE_NAME, is_bundle, utc_now
from sr_deploy.config import first_problem
from sr_deploy.deps import require
from sr_deploy.errors import DamagedBundleError, InputError, VerificationError
from sr_deploy.files import require_file, sha256_of, write_text
from sr_deploy.legible import show_value
from sr_deploy.untrusted import find_inside, parse_json, read_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey

SIGNATURE_NAME = "bundle.sig"
PASSWORD_VARIABLE = "SR_DEPLOY_KEY_PASSWORD"
"""Holds the password of a private key that has one."""
NOT_SIGNED = (ENGINES_FOLDER, CACHES_FOLDER, CERTIFICATE_NAME, PAGE_NAME, SIGNATURE_NAME)
"""What machines add to a bundle later, and the signature itself."""

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""Those of sigstore, each with the hash that is signed with it."""


class _Part(BaseModel, frozen=True, extra="ignore", populate_by_name=True):
    """Part of a file of signatures; other keys than these are left aside."""


class _Resource(_Part):
    algorithm: Literal["sha256"]
    name: str
    digest: Sha256


class _Predicate(_Part):
    resources: tuple[_Resource, ...] = Field(min_length=1, max_length=1000)


class _Statement(_Part):
    kind: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(alias="predicateType")
    predicate: _Predicate


class _Sig(_Part):
    sig: str


class _Envelope(_Part):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: tuple[_Sig] = Field()


class _Key(_Part):
    hint: str | None = None


class _Material(_Part):
    public_key: _Key = Field(alias="publicKey")


class _SigstoreBundle(_Part):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """The private key in a PEM file; its password, if it has one, is in `$SR_DEPLOY_KEY_PASSWORD`.

    Raises:
        InputError: no such file, no private key of one of the curves P-256, P-384 and P-521, or another password.
        MissingDependencyError: cryptography is not installed.
    """
    require("cryptography", "signing")
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = require_file(path, "a private key").read_bytes()
    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        key = load_pem_private_key(content, password.encode() if password else None)
    except TypeError as error:
        raise InputError(f"{path} and ${PASSWORD_VARIABLE} do not go together: {error}") from error
    except Exception as error:  # the library raises many kinds for damaged keys
        raise InputError(f"{path} holds no private key in PEM that can be read: {error}; {_MAKE_KEY}") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise InputError(f"{path} holds another kind of key; taken are the curves P-256, P-384 and P-521; {_MAKE_KEY}")
    return key


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """The public key in a PEM file.

    Raises:
        InputError: no such file, or no public key of one of the curves P-256, P-384 and P-521.
        MissingDependencyError: cryptography is not installed.
    """
    require("cryptography", "checking a signature")
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = require_file(path, "a public key").read_bytes()
    try:
        key = load_pem_public_key(content)
    except Exception as error:
        raise InputError(
            f"{path} holds no public key in PEM: {error}; make it of the private one: openssl ec -in key.pem -pubout"
        ) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InputError(f"{path} holds another kind of key; taken are the curves P-256, P-384 and P-521")
    return key


_MAKE_KEY = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def sign_bundle(folder: Path, manifest: Manifest, key: EllipticCurvePrivateKey) -> Path:
    """Write `bundle.sig` for the files of a bundle that never change.

    Args:
        folder: the bundle's, with `bundle.json` in it.
        manifest: what that says.
        key: of `read_private_key`.

    Raises:
        OutputError: it cannot be written.
    """
    names = sorted([MANIFEST_NAME, *(record.file for record in manifest.files)])
    payload = json.dumps(_make_statement(manifest.name, {name: sha256_of(folder / name) for name in names})).encode()
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [
            {"sig": base64.b64encode(key.sign(_encode(payload), _algorithm(key.curve.name))).decode(), "keyid": ""}
        ],
    }
    document = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": _fingerprint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    path = folder / SIGNATURE_NAME
    write_text(path, json.dumps(document, indent=2) + "\n")
    return path


def check_signature(folder: Path, public_key: Path) -> Check:
    """Whether a bundle is what the owner of a key signed. Nothing else of it is read before the signature holds.

    Args:
        folder: the bundle's, or its `bundle.json`.
        public_key: PEM file.

    Returns:
        What was checked, for the certificate: nothing is wrong.

    Raises:
        VerificationError: there is no signature, it is damaged or of another key, or a file is not what was signed, or
            was not signed.
        InputError: the public key cannot be read, or there is no bundle.
        MissingDependencyError: cryptography is not installed.
    """
    key = read_public_key(public_key)
    folder = folder.parent if folder.name == MANIFEST_NAME else folder
    if not is_bundle(folder):
        raise InputError(f"only bundles are signed, and {folder} is none; give a bundle, or leave the key out")
    path = find_inside(folder, SIGNATURE_NAME, DamagedBundleError)
    if not path.exists():
        raise VerificationError(
            f"NOT verified: {folder} is not signed (no {SIGNATURE_NAME}); sign it with: sr-deploy export --sign KEY"
        )
    digests = read_signature(path, key)
    for name, digest in digests.items():
        file = find_inside(folder, name, DamagedBundleError)
        if not file.is_file() or sha256_of(file) != digest:
            raise VerificationError(f"NOT verified: {folder / name} is missing, or is not what was signed in {path}")
    if MANIFEST_NAME not in digests:
        raise VerificationError(f"NOT verified: {folder / MANIFEST_NAME} is not among the files signed in {path}")
    manifest = read_record(folder / MANIFEST_NAME, Manifest)
    for record in manifest.files:
        if digests.get(record.file) != record.sha256:
            raise VerificationError(f"NOT verified: {folder / record.file} is not among the files signed in {path}")
    return Check(
        kind="signature",
        file=SIGNATURE_NAME,
        sha256=sha256_of(path),
        what=f"signed by the owner of the key {_fingerprint(key)}: {', '.join(digests)}; not what machines add",
        checked_at=utc_now(),
    )


def read_signature(path: Path, key: EllipticCurvePublicKey) -> dict[str, str]:
    """The SHA-256 of each file that the owner of a key signed.

    Raises:
        VerificationError: damaged, of another key, or a signature of something else than files.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        bundle = _SigstoreBundle.model_validate(read_json(path, DamagedBundleError))
        payload = base64.b64decode(bundle.envelope.payload, validate=True)
        signature = base64.b64decode(bundle.envelope.signatures[0].sig, validate=True)
    except (ValidationError, binascii.Error, DamagedBundleError) as error:
        problem = _first(error)
        raise VerificationError(f"NOT verified: {path} is not a signature of sigstore's kind: {problem}") from error
    hint = bundle.material.public_key.hint
    if hint not in (None, "", _fingerprint(key)):
        raise VerificationError(
            f"NOT verified: {path} was made with another key: {show_value(hint)}, and this one is {_fingerprint(key)}"
        )
    try:
        key.verify(signature, _encode(payload), _algorithm(key.curve.name))
    except InvalidSignature as error:
        raise VerificationError(
            f"NOT verified: {path} was not made by the owner of this key, or was changed since"
        ) from error
    try:
        statement = _Statement.model_validate(parse_json(payload))
    except ValueError as error:
        raise VerificationError(f"NOT verified: {path} signs something else than files: {_first(error)}") from error
    return {resource.name: resource.digest for resource in statement.predicate.resources}


def _make_statement(name: str, digests: Mapping[str, str]) -> dict[str, object]:
    whole = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
    resources = [{"algorithm": "sha256", "name": file, "digest": digest} for file, digest in digests.items()]
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": list(NOT_SIGNED),
    }
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": serialization, "resources": resources},
    }


def _fingerprint(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _algorithm(curve: str) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, _CURVES[curve])())


def _encode(payload: bytes) -> bytes:
    """What is signed: DSSE's encoding of the payload and its type."""
    return f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _first(error: Exception) -> str:
    return first_problem(error, "the whole") if isinstance(error, ValidationError) else str(error)
