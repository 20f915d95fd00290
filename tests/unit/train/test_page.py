"""A run's page: made of a real run of some steps, and of runs that were damaged."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.cli import main
from sr_deploy.config import validate_config
from sr_deploy.errors import InputError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.resize import upscale_bicubic
from sr_deploy.model import open_model
from sr_deploy.run_folder import checkpoint_folder, list_previews
from sr_deploy.train.headers import FileHeader
from sr_deploy.train.loop import train
from sr_deploy.train.page.comparison import compare, find_compared
from sr_deploy.train.page.film import MAX_FRAMES
from sr_deploy.train.page.render import write_training_page
from sr_deploy.train.recipe import Recipe, load_recipe, read_run_recipe
from sr_deploy.train.recipe_images import open_validation_images
from sr_deploy.train.run import read_manifest
from sr_deploy.train.shares import find_shares
from sr_deploy.train.validation import upscale
from tests.unit.train.conftest import draw_picture

STEPS = 20
SHIPPED = "demo"


class Page(HTMLParser):
    """Text, tags with their attributes, and the cells of every row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def find(self, tag, **attributes):
        wanted = {key.strip("_"): value for key, value in attributes.items()}.items()
        return [found for name, found in self.tags if name == tag and wanted <= found.items()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        write_image(folder / f"{number}.png", draw_picture(50, 64 + 6 * number, number + 1))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures) -> Path:
    """A run with a discriminator, more previews than are shown, and a change when it went on."""

    def make(steps: int, rate: float) -> Recipe:
        document = {
            "name": SHIPPED, "scale": 2, "seed": 7, "network": {"architecture": "compact", "features": 8, "blocks": 1},
            "data": {"folder": str(pictures), "validation_folder": str(pictures), "patch_size": 16, "batch": 2,
                     "workers": 0},
            "discriminator": {"architecture": "unet", "features": 8},
            "loss": {"weight": 1.0, "adversarial": {"kind": "vanilla", "weight": 0.01}},
            "optimizer": {"learning_rate": rate}, "precision": {"autocast": "off", "channels_last": False},
            "run": {"steps": steps, "log_every": 2, "validate_every": 5, "checkpoint_every": 5, "keep_checkpoints": 1,
                    "preview_every": 1},
        }  # fmt: skip
        return validate_config(document, Recipe, "test")

    run = tmp_path_factory.mktemp("runs") / "tiny"
    train(make(10, 1e-3), run)
    train(make(STEPS, 0.2), run, resume=True, changes=["optimizer.learning_rate"])  # so that the last is not the best
    return run


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> Page:
    path = tmp_path_factory.mktemp("page") / "run.html"
    write_training_page(trained, path)
    return Page(path)


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy to damage."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def make_page(run: Path) -> Page:
    path = run.parent / "page.html"
    write_training_page(run, path)
    return Page(path)


def test_the_page_needs_nothing_from_outside(page):
    addresses = [found[key] for _, found in page.tags for key in ("src", "href", "data", "srcset") if key in found]
    assert len(addresses) > MAX_FRAMES
    assert all(re.match(r"data:image/(png|jpeg);base64,", address) for address in addresses)
    assert not re.search(r"https?:|@import|url\(", page.source)
    assert [found for found in page.find("link") + page.find("iframe") + page.find("object")] == []
    assert page.find("script") == [{}]


def test_the_scores_are_those_of_the_log(trained, page):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["kind"] == "validation"]
    best = max(validations, key=lambda line: line["model"]["psnr_y"])
    last = validations[-1]
    assert (len(validations), last["step"]) == (4, STEPS)
    assert best["step"] != last["step"]
    for name, scores in (
        (f"best, step {best['step']}", best["model"]),
        (f"last, step {STEPS}", last["model"]),
        ("bicubic", best["bicubic"]),
    ):
        (row,) = (row for row in page.rows if row and row[0] == name)
        assert row[1:5] == [
            f"{scores['psnr_y']:.2f}", f"{scores['ssim_y']:.4f}", f"{scores['psnr_rgb']:.2f}",
            f"{scores['ssim_rgb']:.4f}",
        ]  # fmt: skip
    assert f"{best['model']['psnr_y'] - best['bicubic']['psnr_y']:+.2f} dB against bicubic" in page.text
    assert f"{best['model']['psnr_y'] - last['model']['psnr_y']:+.2f} dB against the last one, of step 20" in page.text
    assert page.find("span", class_="verdict good")
    assert "recipe demo, compact x2, 1 blocks, 8 features, RGB, 20 of 20 steps" in page.text


def test_every_curve_is_there_with_the_best_step(trained, page):
    drawn = [found["aria-label"] for found in page.find("svg")]
    assert drawn == [
        *("loss", "discriminator", "Y-PSNR of photographs, dB", "Y-SSIM of photographs"),
        *("learning rate", "steps per second"),
    ]
    for word in ("pixel", "adversarial", "d_real", "d_fake"):
        assert word in page.words
    assert page.words.count(f"best: step {read_manifest(trained).best_validation.step}") == 2


def test_the_film_has_frames_evenly_from_the_first_to_the_last(page):
    frames = [found["data-caption"] for found in page.find("button")]
    steps = [int(re.match(r"step (\d+)", caption)[1]) for caption in frames]
    assert (len(steps), steps[0], steps[-1]) == (MAX_FRAMES, 1, STEPS)
    assert {later - earlier for earlier, later in pairwise(steps)} == {1, 2}
    assert f"{MAX_FRAMES} of {STEPS} previews, evenly drawn" in page.text
    assert [found["aria-pressed"] for found in page.find("button")] == ["false"] * (MAX_FRAMES - 1) + ["true"]
    assert re.match(r"step 20, \d+\.\d\d dB Y-PSNR", frames[-1])
    pictures = [found["src"] for found in page.find("img") if found["src"].startswith("data:image/jpeg")]
    assert len(pictures) == MAX_FRAMES + 1  # the last one is shown large
    assert pictures[-1] == pictures[-2]
    assert base64.b64decode(pictures[0].partition(",")[2])[:2] == b"\xff\xd8"


def test_best_is_compared_with_last_on_two_photographs(trained, page):
    best = read_manifest(trained).best_validation.step
    sliders = page.find("div", class_="slider")
    assert [found["aria-label"] for found in sliders] == [
        f"{name}: best, step {best} against last, step 20" for name in ("0", "1")
    ]
    assert all(found["tabindex"] == "0" and found["role"] == "slider" for found in sliders)
    choices = [found["data-name"] for found in page.find("input", name="view0")]
    assert choices == ["last, step 20", "bicubic", "original"]


def test_what_is_compared_is_what_validation_sees(trained):
    recipe = read_run_recipe(trained / "recipe.toml")
    best = read_manifest(trained).best_validation.step
    found = find_compared(trained, best)
    assert [one[:2] for one in found] == [("best", best), ("last", STEPS)]
    compared = compare(recipe, [folder for _, _, folder in found])
    pair = open_validation_images(recipe).pair(1)
    for (_, _, folder), picture in zip(found, compared[1].checkpoints, strict=True):
        network = open_model(folder).load_network()
        assert np.array_equal(picture, upscale(network, pair.lr, "1", pair.hr.dtype))
    assert np.array_equal(compared[1].bicubic, upscale_bicubic(pair.lr, 2))
    assert np.array_equal(compared[1].original, pair.hr)


def test_of_a_large_photograph_a_part_is_compared(trained, tmp_path):
    write_image(tmp_path / "large" / "large.png", draw_picture(700, 1302, 5))
    recipe = read_run_recipe(trained / "recipe.toml", [f"data.validation_folder={tmp_path / 'large'}"])
    folder = checkpoint_folder(trained, STEPS)
    (compared,) = compare(recipe, [folder])
    assert compared.original.shape == compared.bicubic.shape == compared.checkpoints[0].shape == (320, 320, 3)
    whole = open_validation_images(recipe).pair(0)
    hr = whole.hr.tobytes()
    row = hr.index(compared.original[0].tobytes()) // 3
    top, left = divmod(row, whole.hr.shape[1])
    sr = upscale(open_model(folder).load_network(), whole.lr, "large", whole.hr.dtype)
    assert np.array_equal(compared.checkpoints[0], sr[top : top + 320, left : left + 320])


def test_what_was_changed_is_marked(page):
    marked = {row[0]: row[1:] for row in page.rows if len(row) == 3 and row[2].startswith("shipped:")}
    assert marked["network.features"] == ["8", f"shipped: {load_recipe(SHIPPED).network.features}"]
    assert marked["seed"][0] == "7"
    assert marked["discriminator.features"] == ["8", "shipped: left out"]
    assert marked["scale"] == ["2", f"shipped: {load_recipe(SHIPPED).scale}"]
    assert not {"network.architecture", "discriminator", "data.flips"} & set(marked)
    every = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert every["network.features"] == "8 (changed)"
    assert every["data.flips"] == "true"
    assert "differ from those of the shipped recipe demo" in page.text


def test_history_machine_and_data_are_there(trained, page, pictures):
    manifest = read_manifest(trained)
    assert ["10", "optimizer.learning_rate", "0.001", "0.2"] in page.rows
    assert [str(pictures), "1", "3", "100.0 %"] in page.rows
    for text in (manifest.data_sha256, manifest.machine.title(), f"numpy {manifest.versions['numpy']}"):
        assert text in page.text
    assert ["seed", "7"] in page.rows
    assert "What is missing" not in page.text


def test_shares_are_those_of_weights_and_scales(trained, tmp_path):
    sources = '[{folder="a", weight=1}, {folder="a/b", weight=3, scaled=false}]'
    changes = ["data.folder=", f"data.source={sources}", "data.scales=[1.0, 0.5]"]
    text = (trained / "recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(re.sub(r"(?m)^(folder|source) = .*\n", "", text))
    recipe = read_run_recipe(tmp_path / "recipe.toml", changes[1:])
    # All of a, then what lies below it once more; one picture is too small for any patch.
    paths = ["a/1.png", "a/b/2.png", "a/b/2.png", "a/b/3.png"]
    sides = [(64, 64), (64, 64), (64, 64), (8, 8)]
    headers = [FileHeader(path, 1, 1, *size) for path, size in zip(paths, sides, strict=True)]
    shares = find_shares(recipe, headers)
    assert [(one.source, one.scale, one.pictures) for one in shares] == [
        ("a", "1", 2),
        ("a", "0.5", 2),
        ("a/b", "1", 1),
    ]
    assert [one.share for one in shares] == pytest.approx([0.125, 0.125, 0.75])
    with pytest.raises(InputError, match=r"elsewhere/1\.png was trained on last, and lies in none"):
        find_shares(recipe, [FileHeader("elsewhere/1.png", 1, 1, 64, 64)])


def test_a_damaged_run_gives_what_there_is(run):
    (run / "run.json").write_text('{"name"')
    (run / "previews" / "step-000001.png").write_bytes(b"none")
    with (run / "metrics.jsonl").open("a") as log:
        log.write(
            '{"step": 21, "kind": "training", "loss": NaN, "pixel": 1e308, "learning_rate": -1e308}\n{"step": 22,'
        )
    page = make_page(run)
    assert "run.json is damaged" in page.text
    assert "step-000001.png is not a picture" in page.text
    assert page.find("span", class_="verdict bad")
    assert len(page.find("button")) == MAX_FRAMES - 1
    assert len(page.find("svg")) == 6
    assert re.search(r"Best validation: step \d+ ", page.text)  # by the log
    assert page.find("div", class_="slider")


def test_a_run_at_its_beginning_says_what_is_missing(run):
    for name in ("previews", "checkpoints"):
        shutil.rmtree(run / name)
    for name in ("metrics.jsonl", "headers.jsonl"):
        (run / name).unlink()
    manifest = json.loads((run / "run.json").read_text())
    emptied = {"best_validation": None, "last_validation": None, "checkpoints": [], "best_checkpoint": None}
    (run / "run.json").write_text(json.dumps({**manifest, **emptied, "status": "running"}))
    page = make_page(run)
    for line in (
        "previews: the run has none",
        f"best against last: {run} has no checkpoint yet",
        "scores: the run has no validation yet",
        "curves of the training: the log has no line of it yet",
        "shares of the training pictures: the run keeps no list",
    ):
        assert line in page.text
    assert page.find("svg") + page.find("img") == []
    assert ["network.features", "8 (changed)"] in page.rows


def test_photographs_that_are_gone_leave_the_slider_out(run):
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(re.sub(r'(?m)^validation_folder = ".*"', 'validation_folder = "gone"', recipe))
    page = make_page(run)
    assert "best against last: gone does not exist; give a folder of pictures" in page.text
    assert page.find("div", class_="slider") == []


def test_the_best_step_alone_is_said(run):
    manifest = read_manifest(run)
    shutil.rmtree(checkpoint_folder(run, manifest.best_validation.step))
    page = make_page(run)
    assert f"The checkpoint of the best step, {manifest.best_validation.step}, is not kept." in page.text
    assert [found["data-name"] for found in page.find("input", name="view0")] == ["bicubic", "original"]


def test_what_a_run_says_is_no_markup_and_leads_nowhere(run, tmp_path):
    attack = "<img src=x onerror=alert(1)>\"'\u202e"
    manifest = json.loads((run / "run.json").read_text())
    manifest["versions"] = {attack: attack}
    manifest["device"] = manifest["recipe"] = manifest["name"] = attack[:-1]
    manifest["history"] = [{"step": 1, "key": attack[:-1], "old": [attack[:-1]], "new": {"a": attack[:-1]}}]
    (run / "run.json").write_text(json.dumps(manifest))
    recipe = (run / "recipe.toml").read_text()
    described = f"description = {json.dumps(attack[:-1])}"
    (run / "recipe.toml").write_text(re.sub(r"(?m)^description = .*", lambda _: described, recipe))
    with (run / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 21, "kind": "training", attack: 0.5}) + "\n")
    secret = tmp_path / "secret.png"
    write_image(secret, draw_picture(30, 40, 9))
    (run / "previews" / "step-000020.png").unlink()
    (run / "previews" / "step-000020.png").symlink_to(secret)
    page = make_page(run)
    assert {tag for tag, found in page.tags if "onerror" in found} == set()
    assert [found for found in page.find("img") if not found["src"].startswith("data:image/")] == []
    assert "\u202e" not in page.source
    assert "step-000020.png is a link that leads out of" in html.unescape(page.text)
    assert len(page.find("script")) == 1


def test_what_is_no_run_is_refused_in_one_line(tmp_path, trained, capsys):
    for name, message in (
        (str(tmp_path), "is not a run: it has no run.json; a page is made of the folder that sr-deploy train wrote"),
        (str(trained / "recipe.toml"), "is not a run"),
        (str(checkpoint_folder(trained, STEPS)), "is not a run"),
    ):
        assert main(["info", name, "--html", str(tmp_path / "page.html")]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: {name} ")
        assert message in line
    assert main(["info", str(trained), "--html", str(tmp_path / "page.png")]) == 1
    assert "unknown suffix '.png'; name it .html" in capsys.readouterr().err
    assert list(tmp_path.glob("page*")) == []


def test_the_command_describes_the_run_as_before(tmp_path, trained, capsys):
    assert main(["info", str(trained), "--json"]) == 0
    before = capsys.readouterr().out
    assert main(["info", f"{trained}@best", "--html", str(tmp_path / "page.HTML")]) == 0
    assert f"written: {tmp_path / 'page.HTML'}" in capsys.readouterr().err
    assert main(["info", str(trained), "--html", str(tmp_path / "page.html"), "--json"]) == 0
    assert capsys.readouterr().out == before
    assert (tmp_path / "page.html").stat().st_size > 50_000


def test_a_run_without_checkpoint_has_its_page_all_the_same(run, tmp_path, capsys):
    shutil.rmtree(run / "checkpoints")
    assert main(["info", str(run), "--html", str(tmp_path / "page.html")]) == 0
    assert "nothing more to say of it" in capsys.readouterr().err
    assert len(list_previews(run)) == STEPS
    assert main(["info", str(run), "--html", str(tmp_path / "page.html"), "--json"]) == 1
