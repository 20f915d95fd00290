"""Signed bundles: what holds, what does not, and what sigstore's own tool makes of it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography is not installed (pip install 'sr-deploy[signing]')")

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle.signature import check_signature, read_private_key, read_public_key, read_signature, sign_bundle
from sr_deploy.cli import main
from sr_deploy.errors import InputError, VerificationError
from sr_deploy.files import sha256_of

DATA = Path(__file__).parent / "data"
MADE_BY_SIGSTORE = DATA / "model-signing-1.1.1.sig"


def write_pair(folder: Path, name: str, key=None, password: bytes | None = None) -> tuple[Path, Path]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path):
    """A private key and its public one."""
    return write_pair(tmp_path, "mine")


@pytest.fixture
def signed(make_bundle, tmp_path, keys):
    bundle = make_bundle("compact-x2-gray", tmp_path, fp16=True)
    sign_bundle(bundle.path, bundle.manifest, read_private_key(keys[0]))
    return bundle


def refused(bundle, public: Path) -> str:
    with pytest.raises(VerificationError) as raised:
        check_signature(bundle.path, public)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_immutable_files_are_signed_and_what_machines_add_is_not(signed, keys):
    files = "bundle.json, generator.safetensors, model.fp16.onnx, model.fp32.onnx"
    assert f": {files}; not what machines add" in check_signature(signed.path, keys[1]).what
    for name in ("certificate.json", "certificate.html", "engines/0123456789abcdef.engine", "caches/x.runtime"):
        path = signed.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("added later")
    assert check_signature(signed.path, keys[1]).findings == ()


@pytest.mark.parametrize("name", ["bundle.json", "generator.safetensors", "model.fp32.onnx", "model.fp16.onnx"])
def test_a_file_that_was_changed_or_is_gone_is_named(signed, keys, name):
    path = signed.path / name
    path.write_bytes(path.read_bytes() + b"\n")
    assert f"{path} is missing, or is not what was signed" in refused(signed, keys[1])
    path.unlink()
    if name != "bundle.json":
        assert f"{path} is missing, or is not what was signed" in refused(signed, keys[1])


def test_a_graph_that_was_added_to_the_manifest_is_not_signed(signed, keys):
    """Signed again by nobody: the manifest's own hash tells. Signed with too few files: the graph's place is empty."""
    sign_bundle(signed.path, signed.manifest.model_copy(update={"graphs": ()}), read_private_key(keys[0]))
    assert "model.fp32.onnx is not among the files signed in" in refused(signed, keys[1])


def test_a_missing_signature_another_key_and_a_changed_one_are_told_apart(signed, keys, tmp_path):
    path = signed.path / "bundle.sig"
    whole = path.read_text()
    _, other = write_pair(tmp_path, "other")
    assert "was made with another key: " in refused(signed, other)
    document = json.loads(whole)
    document["verificationMaterial"]["publicKey"]["hint"] = ""
    path.write_text(json.dumps(document))
    assert "was not made by the owner of this key, or was changed since" in refused(signed, other)
    document = json.loads(whole)
    payload = base64.b64decode(document["dsseEnvelope"]["payload"]).replace(b"model.fp16", b"model.fp17")
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    path.write_text(json.dumps(document))
    assert "was not made by the owner of this key, or was changed since" in refused(signed, keys[1])
    for text in ("{", "[]", json.dumps(document | {"mediaType": "text/plain"}), whole.replace("=", "!")):
        path.write_text(text)
        assert "is not a signature of sigstore's kind" in refused(signed, keys[1])
    path.unlink()
    said = refused(signed, keys[1])
    assert f"{signed.path} is not signed (no bundle.sig); sign it with: sr-deploy export --sign KEY" in said


def test_a_link_out_of_the_bundle_is_not_followed(signed, keys, tmp_path):
    shutil.move(signed.path / "bundle.sig", tmp_path / "elsewhere.sig")
    (signed.path / "bundle.sig").symlink_to(tmp_path / "elsewhere.sig")
    with pytest.raises(InputError, match="leads out of"):
        check_signature(signed.path, keys[1])


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve_of_sigstore_signs(signed, tmp_path, curve):
    private, public = write_pair(tmp_path, "long", ec.generate_private_key(curve))
    sign_bundle(signed.path, signed.manifest, read_private_key(private))
    assert check_signature(signed.path, public).findings == ()


def test_keys_of_other_kinds_are_refused(tmp_path, keys, monkeypatch):
    private, public = write_pair(tmp_path, "rsa", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    for path, read in ((private, read_private_key), (public, read_public_key)):
        with pytest.raises(InputError, match="taken are the curves P-256, P-384 and P-521"):
            read(path)
    with pytest.raises(InputError, match="holds no private key in PEM that can be read"):
        read_private_key(keys[1])
    with pytest.raises(InputError, match="holds no public key in PEM"):
        read_public_key(keys[0])
    locked, _ = write_pair(tmp_path, "locked", password=b"correct horse")
    with pytest.raises(InputError, match=r"locked\.pem and \$SR_DEPLOY_KEY_PASSWORD do not go together"):
        read_private_key(locked)
    monkeypatch.setenv("SR_DEPLOY_KEY_PASSWORD", "correct horse")
    assert read_private_key(locked).curve.name == "secp256r1"


def test_what_sigstore_s_tool_signed_is_read():
    """Made by model-signing 1.1.1: `model_signing sign key FOLDER --private_key KEY --ignore-paths FOLDER/engines`."""
    key = read_public_key(DATA / "model-signing-1.1.1.pub.pem")
    assert read_signature(MADE_BY_SIGSTORE, key) == {
        "bundle.json": "e8c628edc9968ef0c668f54e0ba2636b35503357eb1aca0ddc828aeace432f67",
        "model.fp32.onnx": "1b465fa6b6bcbc06a3199e3d2d8aec35d37494a712f888b6d5536684dd89d0f0",
    }


def test_sigstore_s_tool_verifies_what_is_signed_here(signed, keys):
    pytest.importorskip("model_signing", reason="model-signing is not installed; it needs pyOpenSSL beside it")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed.path)]
    command += ["--signature", str(signed.path / "bundle.sig"), "--public_key", str(keys[1])]
    assert subprocess.run(command, check=False).returncode == 0
    path = signed.path / "model.fp16.onnx"
    path.write_bytes(path.read_bytes() + b"\n")
    assert subprocess.run(command, check=False).returncode != 0


@pytest.mark.slow
def test_the_commands_sign_and_verify(tmp_path, keys, write_network, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / "net.safetensors", ArchSpec(architecture="compact", scale=2, features=8, blocks=1))
    export = ["export", "net.safetensors", "--out", "bundle", "--backend", "none"]
    assert main([*export, "--sign", str(keys[1])]) == 1  # no private key: nothing was begun
    assert "holds no private key" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
    assert main([*export, "--sign", str(keys[0])]) == 0
    hashes = {path.name: sha256_of(path) for path in (tmp_path / "bundle").glob("model.*")}
    verify = ["verify", "bundle", "--backend", "onnxruntime:fp32", "--verify-key", str(keys[1]), "--json"]
    for _ in range(2):  # the certificate was written in between
        capsys.readouterr()
        assert main(verify) == 0
        checks = json.loads(capsys.readouterr().out)["checks"]
        (signature,) = [check for check in checks if check["kind"] == "signature"]
        assert all(name in signature["what"] for name in hashes)
    _, other = write_pair(tmp_path, "other")
    assert main([*verify[:-3], "--verify-key", str(other)]) == 3
    assert "NOT verified: bundle/bundle.sig was made with another key" in capsys.readouterr().err
    (tmp_path / "bundle" / "bundle.sig").unlink()
    assert main([*verify[:-3], "--verify-key", str(keys[1])]) == 3
    assert "NOT verified: bundle is not signed" in capsys.readouterr().err
    assert main(["verify", "net.safetensors", "--verify-key", str(keys[1])]) == 1
    assert "only bundles are signed" in capsys.readouterr().err
