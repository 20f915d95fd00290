"""Bundles: what a deployment is made of, what machines add to it, and what was measured of it."""

from sr_deploy.bundle.profile import Profile, Shape, parse_profile, parse_shape
from sr_deploy.bundle.records import (
    Certificate,
    CertificateEntry,
    EngineRecord,
    FileRecord,
    GraphRecord,
    Manifest,
    Measurement,
    SourceRecord,
    engine_key,
)
from sr_deploy.bundle.store import Bundle, creating_bundle, find_newest_bundle, open_bundle, record_file, utc_now
from sr_deploy.bundle.thresholds import DEFAULT_THRESHOLDS, Thresholds

__all__ = [
    "DEFAULT_THRESHOLDS",
    "Bundle",
    "Certificate",
    "CertificateEntry",
    "EngineRecord",
    "FileRecord",
    "GraphRecord",
    "Manifest",
    "Measurement",
    "Profile",
    "Shape",
    "SourceRecord",
    "Thresholds",
    "creating_bundle",
    "engine_key",
    "find_newest_bundle",
    "open_bundle",
    "parse_profile",
    "parse_shape",
    "record_file",
    "utc_now",
]
