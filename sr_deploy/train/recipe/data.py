"""The images that a network learns from and is measured on."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sr_deploy.train.section import Section

_STEREO_PAIR = {"motorcycle_left", "motorcycle_right"}


class SourceRecipe(Section):
    """One of several folders of images to train on."""

    folder: str
    """Searched recursively."""
    weight: float | None = Field(default=None, gt=0, le=10**6)
    """Share of the patches, relative to the other sources; left out: what `data.draw` makes of its images."""
    scaled: bool = True
    """Train on its images at all of `data.scales` and at `data.short_side`; false: as they are alone."""


class DataRecipe(Section):
    """What the network sees, and what it is measured on."""

    training: tuple[str, ...] = Field(default=(), max_length=1000)
    """Bundled photographs to train on, by name; not used when `folder` is set."""
    held_out: tuple[str, ...] = Field(default=(), max_length=1000)
    """Bundled photographs to validate on, by name; not used when `validation_folder` is set."""
    folder: str | None = None
    """Folder of images to train on, searched recursively; images of any size."""
    lr_folder: str | None = None
    """Folder of low-resolution pictures that belong to those of `folder`, by name; left out: those beside the originals
    as in HR/ and LR_bicubic/X4/, else low resolution is made."""
    source: tuple[SourceRecipe, ...] = Field(default=(), max_length=1000)
    """Several folders instead of `folder`, with weights."""
    draw: Literal["picture", "area"] = "picture"
    """picture: each image gets as many patches as any other; area: by the squares that it has at each scale, of the
    side that is cut and half of it apart."""
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1, max_length=100)
    """Factors by which originals are shrunk before patches are cut, by the papers' bicubic; 1.0: as they are."""
    short_side: int | None = Field(default=None, ge=8, le=65536)
    """One more scale: the one at which the shorter side has so many pixels."""
    validation_folder: str | None = None
    """Folder of images to validate on."""
    validation_lr_folder: str | None = None
    """Folder of low-resolution pictures that belong to those of `validation_folder`, likewise."""
    patch_size: int = Field(ge=8, le=4096)
    """Side of a high-resolution training patch, in pixels; a multiple of the scale."""
    batch: int = Field(ge=1, le=65536)
    """Patches per step."""
    patches_per_decode: int = Field(default=1, ge=1, le=64)
    """Patches of one drawn image, at one scale: a sample of the batch keeps its image for so many steps, which saves
    decoding where `cache_gib` cannot hold all images; it has to hold one for each sample."""
    flips: bool = True
    """Mirror half of the patches, left to right."""
    rotations: bool = True
    """Turn each patch by a random multiple of 90 degrees."""
    workers: int = Field(default=1, ge=0, le=64)
    """Threads that prepare batches ahead of the network; 0 prepares them in the loop. The stream is the same."""
    cache_gib: float = Field(default=4.0, gt=0, le=65536)
    """Memory for decoded images, in GiB; what does not fit is decoded again when it is drawn."""

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.folder is None and not self.source and not self.training:
            raise ValueError("name bundled photographs in data.training, or set data.folder (--data DIR)")
        if self.validation_folder is None and not self.held_out:
            raise ValueError("name bundled photographs in data.held_out, or set data.validation_folder")
        for key in ("", "validation_"):
            if getattr(self, f"{key}lr_folder") is not None and getattr(self, f"{key}folder") is None:
                raise ValueError(f"data.{key}lr_folder needs its originals: set data.{key}folder")
        if self.folder is not None and self.source:
            raise ValueError(
                f"data.folder = {self.folder!r} and {len(self.source)} [[data.source]] are both there; give one of "
                "them (--data DIR puts one folder in place of all sources)"
            )
        if len({source.weight is None for source in self.source}) > 1:
            without = ", ".join(source.folder for source in self.source if source.weight is None)
            raise ValueError(f"of several [[data.source]] all have a weight or none; give one to {without}")
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"data.scales = {list(self.scales)} has one of them twice; give each once")
        if self.folder is None and not self.source and self.validation_folder is None:
            if both := sorted(set(self.training) & set(self.held_out)):
                raise ValueError(f"{', '.join(both)} cannot be in both data.training and data.held_out")
            if _STEREO_PAIR & set(self.training) and _STEREO_PAIR & set(self.held_out):
                raise ValueError(
                    "motorcycle_left and motorcycle_right show one scene: put both in data.training or in data.held_out"
                )
        return self
