"""Make the bundle that ships with sr-deploy anew: photographs, training, INT8 within a budget, certificate, figures.

    pip install scikit-learn matplotlib
    python train/make_small_x2.py --out build

leaves in build/

    photographs/training   what it learns from and is calibrated on: freely licensed photographs out of scikit-image,
                           scikit-learn and matplotlib, as they are installed, nothing is downloaded; and each of
                           them at half its size, where detail is as fine as pixels are
    photographs/held-out   what it never sees
    runs/small-x2          the training, by the recipe small-x2 with its seed
    deployments/small-x2   the bundle, with the terms of the photographs in PHOTOGRAPHS.md and without certificate.html,
                           whose crops show photographs of other terms
    figures/               PSNR and SSIM of FP32 and INT8 beside bicubic's, and the crops that are furthest off

The same command goes on after a stop. `sr_deploy/_models/small-x2` in this repository is that bundle.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.bundle.store import PAGE_NAME
from sr_deploy.cli import main as run_command
from sr_deploy.errors import InputError, SrDeployError
from sr_deploy.files import make_folder, replacing_file, sha256_of, write_text
from sr_deploy.imaging.codec import list_images, read_training_image, write_image
from sr_deploy.imaging.photographs import crop_to_multiple
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.run_folder import find_last_checkpoint
from sr_deploy.train.run import read_manifest

NAME = "small-x2"
TERMS_NAME = "PHOTOGRAPHS.md"
MAX_DROP_DB = 0.05
_HALF = "-half"

_CC0 = "CC0 1.0"
_PUBLIC_DOMAIN = "public domain"
_CC_BY = "CC BY 2.0"


@dataclass(frozen=True)
class Package:
    """A package that photographs come in."""

    name: str
    """As pip knows it."""
    module: str
    """As Python imports it."""
    folder: str
    """Where in the module its photographs lie."""


SKIMAGE = Package("scikit-image", "skimage", "data")
SKLEARN = Package("scikit-learn", "sklearn", "datasets/images")
MATPLOTLIB = Package("matplotlib", "matplotlib", "mpl-data/sample_data")


@dataclass(frozen=True)
class Photograph:
    """One file, and what its package says of it."""

    file: str
    """Its name."""
    package: Package
    """Where it comes from."""
    terms: str
    """Under which it may be used, as the package states them."""
    source: str
    """Who made it or where the package took it from."""
    sha256: str
    """Of the file: another picture of the same name is not taken."""


TRAINING = (
    Photograph("astronaut.png", SKIMAGE, _PUBLIC_DOMAIN, "NASA, Great Images",
               "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    Photograph("brick.png", SKIMAGE, _CC0, "cc0textures.com, Bricks25",
               "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
    Photograph("camera.png", SKIMAGE, _CC0, "Lav Varshney",
               "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
    Photograph("coins.png", SKIMAGE, "no known copyright restrictions", "Brooklyn Museum Collection, 51611",
               "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
    Photograph("grass.png", SKIMAGE, _CC0, "linolafett on DeviantArt, Grass 01",
               "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
    Photograph("gravel.png", SKIMAGE, _CC0, "cc0textures.com, Gravel04",
               "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
    Photograph("hubble_deep_field.jpg", SKIMAGE, _PUBLIC_DOMAIN, "NASA, HubbleSite 2012-37",
               "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"),
    Photograph("ihc.png", SKIMAGE, "no known copyright restrictions", "Center for Microscopy and Molecular Imaging",
               "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
    Photograph("retina.jpg", SKIMAGE, _CC0, "Mikael Häggström; Wikimedia Commons",
               "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"),
    Photograph("china.jpg", SKLEARN, _CC_BY, "danielbuechele on Flickr, 6061409035",
               "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    Photograph("flower.jpg", SKLEARN, _CC_BY, "vultilion on Flickr, 6056698931",
               "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
    Photograph("grace_hopper.jpg", MATPLOTLIB, _PUBLIC_DOMAIN, "U.S. Navy; Wikimedia Commons, Grace_Hopper.jpg",
               "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"),
)  # fmt: skip
HELD_OUT = (
    Photograph("chelsea.png", SKIMAGE, _CC0, "Stefan van der Walt",
               "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    Photograph("coffee.png", SKIMAGE, _CC0, "Rachel Michetti, Pikolo Espresso Bar",
               "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    Photograph("rocket.jpg", SKIMAGE, _PUBLIC_DOMAIN, "SpaceX on Flickr, 16511594820",
               "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
)  # fmt: skip


def find_folder(package: Package) -> Path:
    """Where the photographs of an installed package lie; the package is not imported.

    Raises:
        InputError: it is not installed.
    """
    found = importlib.util.find_spec(package.module)
    if found is None or found.origin is None:
        raise InputError(f"{package.name} is not installed; run: pip install {package.name}")
    return Path(found.origin).parent / package.folder


def collect_photographs(photographs: Sequence[Photograph], folder: Path) -> None:
    """Copy photographs out of their packages, byte by byte.

    Args:
        photographs: which.
        folder: gets them; what is there already is copied again.

    Raises:
        InputError: a package is not installed, or brings another picture under that name.
        OutputError: one cannot be written.
    """
    for photograph in photographs:
        path = find_folder(photograph.package) / photograph.file
        seen = sha256_of(path) if path.is_file() else "no such file"
        if seen != photograph.sha256:
            raise InputError(
                f"{path} is not the picture that the network was trained on (SHA-256 {seen}, not {photograph.sha256}); "
                f"install another version of {photograph.package.name}"
            )
        with replacing_file(folder / photograph.file) as temporary:
            shutil.copyfile(path, temporary)


def add_halves(folder: Path) -> None:
    """Put each photograph of a folder there at half its size too, as NAME-half.png.

    Raises:
        OutputError: one cannot be written.
    """
    for path in [path for path in list_images(folder) if not path.stem.endswith(_HALF)]:
        halved = downscale_bicubic(crop_to_multiple(read_training_image(path), 2), 2)
        write_image(path.with_name(f"{path.stem}{_HALF}.png"), halved)


def describe_terms() -> str:
    """PHOTOGRAPHS.md: what the network learnt from, what it never saw, and the terms of each, as Markdown."""
    lines = [
        f"# Photographs behind {NAME}",
        "",
        "Terms are as the packages state them; those of grace_hopper.jpg as matplotlib did when it added it (#1599).",
        "None of the photographs is in this folder: the network's weights were computed from them.",
    ]
    for title, photographs in (
        ("Trained and calibrated on, each also at half its size", TRAINING),
        ("Held out: never trained or calibrated on", HELD_OUT),
    ):
        lines += ["", f"## {title}", "", "| file | package | terms | by, from | SHA-256 |", "|---|---|---|---|---|"]
        lines += [
            f"| {one.file} | {one.package.name} | {one.terms} | {one.source} | `{one.sha256}` |" for one in photographs
        ]
    return "\n".join(lines) + "\n"


def list_commands() -> list[list[str]]:
    """The words of each sr-deploy command, to be run one after the other in the output folder."""
    run, bundle = f"runs/{NAME}", f"deployments/{NAME}"
    export = ["export", run, "--fp16", "--int8", "--calibration", "photographs/training"]
    commands = [
        [*export, "--max-drop-db", str(MAX_DROP_DB), "--backend", "none", "--out", bundle],
        *(
            ["evaluate", bundle, "--hr", "photographs/held-out", "--backend", backend, "--out", f"figures/{folder}"]
            for folder, backend in (("fp32", "torch:fp32"), ("int8", "onnxruntime:int8"))
        ),
    ]
    if not Path(run).is_dir() or find_last_checkpoint(Path(run)) is None:
        training = ["train", NAME, "--data", "photographs/training", "--device", "cpu", "--out", run]
        return [training, *commands]
    if read_manifest(Path(run)).status != "finished":
        return [["train", "--resume", "--device", "cpu", "--out", run], *commands]
    return commands


def make_bundle(out: Path) -> int:
    """Make everything in `out`; the exit code of the first command that failed, or 0.

    Raises:
        InputError: a photograph is not what it was.
        OutputError: something cannot be written.
    """
    collect_photographs(TRAINING, out / "photographs" / "training")
    add_halves(out / "photographs" / "training")
    collect_photographs(HELD_OUT, out / "photographs" / "held-out")
    with contextlib.chdir(out):  # so that no path of this machine is in what travels
        for words in list_commands():
            print(f"$ {shlex.join(['sr-deploy', *words])}", flush=True)
            if code := run_command(words):
                return code
        bundle = Path("deployments") / NAME
        write_text(bundle / TERMS_NAME, describe_terms())
        (bundle / PAGE_NAME).unlink()
    print(f"the bundle: {out / bundle}")
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """What was asked for; exits with code 2 on misuse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for everything [build]")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Make the bundle; the exit code."""
    out = parse_arguments(arguments).out
    try:
        return make_bundle(make_folder(out))
    except SrDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
