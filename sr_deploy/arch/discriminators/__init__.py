"""Discriminators: the networks that tell originals from results, and their files."""

from __future__ import annotations

from sr_deploy.arch.discriminators.factory import build_discriminator, check_discriminator
from sr_deploy.arch.discriminators.files import read_discriminator, save_discriminator

__all__ = ["build_discriminator", "check_discriminator", "read_discriminator", "save_discriminator"]
