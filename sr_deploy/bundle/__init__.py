"""Bundles: what a deployment is made of, what machines add to it, and what was measured of it."""

from sr_deploy.bundle.certificate import (
    Acceptance,
    BudgetStage,
    Certificate,
    CertificateEntry,
    Check,
    ErrorBudget,
    LastVerification,
    Measurement,
    NotRun,
    WorstPlace,
)
from sr_deploy.bundle.documents import record_file
from sr_deploy.bundle.engine_options import EngineOptions, EnginePlan, list_engine_backends
from sr_deploy.bundle.profile import Profile, Shape, parse_profile, parse_shape
from sr_deploy.bundle.records import (
    EngineRecord,
    FileRecord,
    GraphRecord,
    Int8Record,
    Manifest,
    SourceRecord,
    engine_key,
)
from sr_deploy.bundle.store import (
    Bundle,
    creating_bundle,
    find_newest_bundle,
    holding_bundle,
    open_bundle,
    utc_now,
)
from sr_deploy.bundle.thresholds import DEFAULT_THRESHOLDS, Thresholds

__all__ = [
    "DEFAULT_THRESHOLDS",
    "Acceptance",
    "BudgetStage",
    "Bundle",
    "Certificate",
    "CertificateEntry",
    "Check",
    "EngineOptions",
    "EnginePlan",
    "EngineRecord",
    "ErrorBudget",
    "FileRecord",
    "GraphRecord",
    "Int8Record",
    "LastVerification",
    "Manifest",
    "Measurement",
    "NotRun",
    "Profile",
    "Shape",
    "SourceRecord",
    "Thresholds",
    "WorstPlace",
    "creating_bundle",
    "engine_key",
    "find_newest_bundle",
    "holding_bundle",
    "list_engine_backends",
    "open_bundle",
    "parse_profile",
    "parse_shape",
    "record_file",
    "utc_now",
]
