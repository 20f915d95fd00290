"""Small files of weights that ask for much memory or time, or for a crash: each is refused in one short line."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile

import pytest
import torch

from sr_deploy.arch.discriminators import read_discriminator, save_discriminator
from sr_deploy.arch.discriminators.files import _list_shapes
from sr_deploy.arch.lpips import Lpips
from sr_deploy.arch.spec import ArchSpec, DiscriminatorSpec
from sr_deploy.arch.vgg import load_vgg19
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import CheckpointError, SrDeployError
from tests.fuzz.checkpoint_cases import CASES, archive, save, state

COMPACT = ArchSpec(architecture="compact", scale=4, features=6, blocks=2)
READER = """
import os, resource, sys
from pathlib import Path
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import SrDeployError
import torch

for path in sorted(Path(sys.argv[1]).iterdir()):
    child = os.fork()
    if child == 0:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, now + 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        try:
            read_checkpoint(path)
            print(path.name, "was taken", flush=True)
        except SrDeployError as error:
            print(error, flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(path.name, "ended the process", flush=True)
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each case, read in a child with 10 s and 1 GiB for each."""
    folder = tmp_path_factory.mktemp("cases")
    for number, (make, _) in enumerate(CASES.values()):
        (folder / f"{number:03}.pth").write_bytes(make())
    ended = subprocess.run(
        [sys.executable, "-c", READER, folder], capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    said = ended.stdout.splitlines()
    assert len(said) == len(CASES), said
    return dict(zip(CASES, said, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("name", CASES)
def test_small_files_end_in_one_short_line(lines, name):
    assert CASES[name][1] in lines[name], lines[name]
    assert len(lines[name]) < 1200


@pytest.mark.parametrize("read", [read_discriminator, load_vgg19, lambda path: Lpips.read(path, path)])
def test_every_reader_of_weights_takes_the_same_way(tmp_path, read):
    for name in (
        "one number for many",
        "nested tuples",
        "deflated",
        "code by a known name",
        "meta",
        "a header of 2 GB",
    ):
        (tmp_path / "x.pth").write_bytes(CASES[name][0]())
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path / "x.pth")
        assert CASES[name][1] in str(caught.value)
        assert len(str(caught.value)) < 1200


def test_discriminators_are_refused_before_they_are_built(tmp_path):
    """With a thousand channels the U-Net of this file would take 9 GB."""
    wide = {"conv0.weight": (1024, 3, 3, 3), "conv9.weight": (1, 1024, 3, 3)}
    dense = {"conv0_0.weight": (4, 3, 3, 3), "linear1.weight": (100, 512)}
    for tensors, words in (
        (wide | {"conv1.parametrizations.weight.original": (1,)}, "'conv0.bias' is missing for unet, 1024 features"),
        (dense | {f"conv{10**9}_0.weight": (1,)}, "numbered conv1000000000"),
    ):
        (tmp_path / "x.pth").write_bytes(state(tensors))
        with pytest.raises(CheckpointError, match=words):
            read_discriminator(tmp_path / "x.pth")


@pytest.mark.parametrize(("field", "value"), [("features", 10**9), ("patch_size", 10**9), ("channels", 10**9)])
def test_numbers_in_a_discriminator_s_metadata_are_bounded(tmp_path, field, value):
    spec = DiscriminatorSpec(architecture="vgg128", patch_size=128).model_copy(update={field: value})
    save_discriminator(tmp_path / "x", {"conv0_0.bias": torch.zeros(4)}, spec)
    with pytest.raises(CheckpointError, match=rf"no discriminator .*{field}: Input should be less than"):
        read_discriminator(tmp_path / "x")


@pytest.mark.parametrize("architecture", ["unet", "srgan", "vgg128", "vgg256"])
@pytest.mark.parametrize("spectral", [False, True])
def test_shapes_of_discriminators_are_told_without_building_them(architecture, spectral):
    from sr_deploy.arch.discriminators import build_discriminator

    if spectral and architecture != "unet":
        pytest.skip("only the U-Net has spectral normalization")
    spec = DiscriminatorSpec(architecture=architecture, features=4, patch_size=128, spectral_norm=spectral)
    built = build_discriminator(spec).state_dict()
    assert _list_shapes(spec) == {key: tuple(tensor.shape) for key, tensor in built.items()}


def test_the_wanted_tensors_alone_are_read(tmp_path, weights_of):
    """A training state around the weights costs nothing: its numbers stay in the file."""
    whole = archive_of(weights_of(COMPACT))
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        largest = max(info.file_size for info in file.infolist())
    (tmp_path / "x.pth").write_bytes(whole)
    assert largest == 4_000_000
    assert len(read_checkpoint(tmp_path / "x.pth").state) == len(weights_of(COMPACT))


def archive_of(weights):
    return save({"optimizer": {"state": {0: {"exp_avg": torch.zeros(1_000_000)}}}, "state_dict": weights})


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_give_what_torch_reads(tmp_path, weights_of, method, legacy):
    """Archives that somebody packed anew, compressed, are among the published ones."""
    weights = weights_of(COMPACT)
    strided = {key: tensor.t() if tensor.ndim == 2 else tensor for key, tensor in weights.items()}
    strided["body.2.weight"] = weights["body.2.weight"].transpose(0, 1)
    content = save({"params": strided, "epoch": 3}, legacy=legacy)
    if not legacy:
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w", method) as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info), method)
        content = packed.getvalue()
    (tmp_path / "x.pth").write_bytes(content)
    theirs = torch.load(tmp_path / "x.pth", weights_only=True)["params"]
    ours = read_checkpoint(tmp_path / "x.pth").state
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_every_type_of_numbers_is_read_as_torch_reads_it(tmp_path, weights_of, dtype, form):
    from safetensors.torch import save_file

    weights = {key: tensor.to(getattr(torch, dtype)) for key, tensor in weights_of(COMPACT).items()}
    if form == "torch":
        torch.save(weights, tmp_path / "x")
    else:
        save_file(weights, tmp_path / "x")
    for key, tensor in read_checkpoint(tmp_path / "x").state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, weights[key].float())


def test_a_changed_number_is_found_by_the_archive_s_checksum(tmp_path, weights_of, assert_refused):
    whole = bytearray(save(weights_of(COMPACT)))
    numbers = weights_of(COMPACT)["body.2.weight"].numpy().tobytes()
    at = whole.find(numbers)
    assert at > 0
    whole[at + 100] ^= 1
    (tmp_path / "x.pth").write_bytes(whole)
    assert_refused(tmp_path / "x.pth", "damaged", "checksum", "download it again")


def test_parameters_with_attributes_and_settings_are_read(tmp_path, weights_of):
    weights = {key: torch.nn.Parameter(tensor) for key, tensor in weights_of(COMPACT).items()}
    weights["body.0.bias"].note = "kept by nobody"
    weights["body.2.bias"].data.note = 1
    torch.save({"state_dict": weights, "milestones": {1: 2}, "shape": torch.Size([1, 2])}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").spec == COMPACT


def test_refusals_carry_no_file_of_many_names(tmp_path):
    """The line is short whatever the file holds; that of 5 MB was seen."""
    for names in ({"k" * 1000 * 1000: torch.zeros(1)}, {f"k{n}": {"v" * 100: 1} for n in range(1000)}):
        torch.save(names, tmp_path / "x.pth")
        with pytest.raises(SrDeployError) as caught:
            read_checkpoint(tmp_path / "x.pth")
        assert len(str(caught.value)) < 1200


def test_an_archive_with_two_pickles_or_none_is_refused(tmp_path, assert_refused):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("b/data.pkl", b"\x80\x02}.")
    (tmp_path / "x.pth").write_bytes(stream.getvalue())
    assert_refused(tmp_path / "x.pth", "2 files data.pkl")
    (tmp_path / "x.pth").write_bytes(archive(b"").replace(b"data.pkl", b"data.txt"))
    assert_refused(tmp_path / "x.pth", "0 files data.pkl")
