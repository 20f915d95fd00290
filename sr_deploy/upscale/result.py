"""What is told about an upscaled picture."""

from __future__ import annotations

from dataclasses import dataclass

from sr_deploy.imaging.opening import Pixels


@dataclass(frozen=True)
class UpscaleReport:
    """How a picture was upscaled."""

    tiles: int
    """Number of tiles that it went through in; 1: the whole picture at once."""
    window: tuple[int, int]
    """Height and width of what the network got for each, in input pixels."""
    halo: int
    """Overlap on each inner side of a window; 0 for a whole picture."""
    blend: int
    """Input pixels on either side of a seam over which tiles were blended; 0: none, the halo is all that is seen."""
    recomputed: int
    """Tiles that a guard objected to and that were right when computed again in FP32."""
    seam_db: float | None
    """PSNR of the blended strips against the whole picture at once, judged by how neighboring tiles differ there;
    None: nothing was blended."""
    seam_budget_db: float
    """What `seam_db` should reach at least."""
    halvings: int
    """How often memory ran out, and tiles were halved."""
    tile_limit: int | None
    """Core of the largest tile that is tried from now on; None: memory has always been enough."""
    batch: int
    """Tiles that went through the network at once, at most."""
    batch_halvings: int
    """How often memory ran out, and batches were halved."""
    seconds: float
    """All of it, from samples to samples."""

    @property
    def seams_kept(self) -> bool:
        """Whether seams keep to their budget; true where there are none."""
        return self.seam_db is None or self.seam_db >= self.seam_budget_db


@dataclass(frozen=True)
class Upscaled:
    """A picture and how it was made."""

    image: Pixels
    """(H * scale) x (W * scale) x C, of the input's type."""
    report: UpscaleReport
