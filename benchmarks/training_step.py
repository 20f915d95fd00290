"""Time whole training steps, and say where the time goes: data, degradation, forward, backward, update.

    python benchmarks/training_step.py                  # ESRGAN and Real-ESRGAN, batches of 2: minutes on two cores
    python benchmarks/training_step.py --device cuda --batch 16 --recipe esrgan
    python benchmarks/training_step.py --count          # only count each recipe's floating-point operations: a minute

Networks, patches, losses and precision are the recipe's, the batch is --batch; weights are random, as time does not
depend on them, VGG19's too unless --vgg19 names its file. First whole steps are timed as the loop makes them. Then the
phases of as many steps are timed one by one; on a GPU each phase waits for the device, which costs a little overlap.
Results that go into benchmarks/results go into docs/training.md too.
`forward` holds the generator, VGG19 and the discriminator; `update` holds the gradients' check, Adam and the average.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from pages import describe_run
from torch.utils.flop_counter import FlopCounterMode
from training_pages import PHASES, RESULTS, StepTimes, update_page, write_counts, write_times

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.vgg import Vgg19Features
from sr_deploy.arch.weights import save_generator
from sr_deploy.config import named_files
from sr_deploy.train.processes import SINGLE_PROCESS
from sr_deploy.train.recipe import Recipe, load_recipe
from sr_deploy.train.sampling import Batch, iterate_batches
from sr_deploy.train.schedule import learning_rate_at
from sr_deploy.train.session import Session, open_session

_WARM_UP = 2


class PhaseClock:
    """Adds up the time of phases; on a GPU each waits for the device before it ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._phase: str | None = None
        self._began = 0.0
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def begin(self, phase: str | None) -> None:
        """End the present phase and begin the next; None: a pause."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._phase is not None:
            self.seconds[self._phase] += now - self._began
        self._phase, self._began = phase, now


def make_step(session: Session, batches: Iterator[Batch], clock: PhaseClock | None = None) -> None:
    """One step as the loop makes it."""
    begin = clock.begin if clock is not None else lambda phase: None
    state = session.state
    begin("data")
    batch = next(batches)
    begin("degradation")
    pair = session.make_pair(batch)
    learning_rate = learning_rate_at(state.step, session.recipe.optimizer, session.recipe.run.steps)
    session.updater.update(pair, learning_rate, begin)
    state.average.update(state.network, state.step)
    state.step += 1
    begin(None)


def time_steps(session: Session, steps: int) -> tuple[list[float], dict[str, float], float, float | None]:
    """Milliseconds of whole steps, share of each phase in percent, TFLOP of a step, and a GPU's utilization."""
    device, recipe = session.device, session.recipe
    last = _WARM_UP + 1 + 2 * steps
    batches = iterate_batches(session.sampler, 0, last, recipe.data.workers)
    for _ in range(_WARM_UP):
        make_step(session, batches)
    with FlopCounterMode(display=False) as counter:
        make_step(session, batches)
    taken = []
    with watch_gpu(device) as seen:
        for _ in range(steps):
            _wait(device)
            began = time.perf_counter()
            make_step(session, batches)
            _wait(device)
            taken.append(1e3 * (time.perf_counter() - began))
    clock = PhaseClock(device)
    for _ in range(steps):
        make_step(session, batches, clock)
    total = sum(clock.seconds.values())
    shares = {phase: 100 * seconds / total for phase, seconds in clock.seconds.items()}
    return taken, shares, counter.get_total_flops() / 1e12, statistics.mean(seen) if seen else None


@contextmanager
def watch_gpu(device: torch.device) -> Iterator[list[float]]:
    """Utilization in percent, asked for twice a second while the block runs; stays empty on a CPU."""
    seen: list[float] = []
    done = threading.Event()
    query = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--id={device.index or 0}")

    def watch() -> None:
        while not done.wait(0.5):
            answer = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                seen.append(float(answer.stdout))

    thread = threading.Thread(target=watch, daemon=True)
    if device.type == "cuda":
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


def measure(recipe: Recipe, folder: Path, device: str | None, steps: int) -> StepTimes:
    """Open the recipe's training in `folder` and time it."""
    opening = open_session(
        recipe,
        folder / recipe.name,
        resume=False,
        device=device,
        start_from=None,
        processes=SINGLE_PROCESS,
    )
    with opening as session:
        on_gpu = session.device.type == "cuda"
        torch.backends.cudnn.benchmark = on_gpu  # as the loop has it
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(session.device)
        taken, shares, tflop, gpu_percent = time_steps(session, steps)
        memory_gib = torch.cuda.max_memory_allocated(session.device) / 2**30 if on_gpu else None
    return StepTimes(
        recipe=recipe.name,
        network=recipe.arch_spec().title(),
        batch=recipe.data.batch,
        patch_size=recipe.data.patch_size,
        precision=session.precision.title(),
        step_ms=statistics.median(taken),
        fastest_ms=min(taken),
        slowest_ms=max(taken),
        shares=shares,
        tflop=tflop,
        memory_gib=memory_gib,
        gpu_percent=gpu_percent,
    )


def count_operations(recipe: Recipe, folder: Path) -> float:
    """TFLOP of one step with one patch, on the CPU."""
    opening = open_session(
        recipe,
        folder / recipe.name,
        resume=False,
        device="cpu",
        start_from=None,
        processes=SINGLE_PROCESS,
    )
    with opening as session, FlopCounterMode(display=False) as counter:
        make_step(session, iterate_batches(session.sampler, 0, 1, 0))
    return float(counter.get_total_flops()) / 1e12


def prepare_recipe(name: str, settings: Sequence[str], vgg19: Path) -> Recipe:
    """The recipe, with `settings`, from random weights: the stage before is not needed to measure time."""
    recipe = load_recipe(name, settings)
    if recipe.loss.perceptual is not None:
        recipe = load_recipe(name, [*settings, f"loss.perceptual.vgg19={json.dumps(str(vgg19))}"])
    if recipe.loss.distill is not None and recipe.quantization is None:
        teacher = write_random_teacher(vgg19.parent)
        recipe = load_recipe(name, [*settings, f"loss.distill.teacher={json.dumps(str(teacher))}"])
    return recipe.model_copy(update={"init_from": None})


def write_random_vgg19(folder: Path) -> Path:
    """A file as torchvision publishes it, but for the numbers."""
    path = folder / "vgg19-random.pth"
    torch.manual_seed(0)
    torch.save(Vgg19Features(["conv5_4"]).state_dict(), path)
    return path


def write_random_teacher(folder: Path) -> Path:
    """A network as RealESRGAN_x4plus, but for the numbers."""
    path = folder / "teacher-random.safetensors"
    spec = load_recipe("realesrgan").arch_spec()
    save_generator(path, build_network(spec).state_dict(), spec)
    return path


def parse_arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", help="name of a recipe; repeatable [esrgan and realesrgan]")
    parser.add_argument("--device", help="cpu, cuda or cuda:N [cuda if there is one]")
    parser.add_argument("--batch", type=int, default=2, help="patches per step [2]")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed, twice [10]")
    parser.add_argument("--data", type=Path, help="folder of photographs [the bundled ones]")
    parser.add_argument("--vgg19", type=Path, help="torchvision's file [random weights]")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="section.key=value; repeatable")
    parser.add_argument("--count", action="store_true", help="count operations of every recipe; time nothing")
    parser.add_argument(
        "--pages", action="store_true", help="write the table of docs/training.md again; measure nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the .json and .md")
    return parser.parse_args()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and write the results."""
    options = parse_arguments()
    if options.pages:
        update_page(options.out)
        return
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("sr_deploy").setLevel(logging.INFO)
    head = {
        **describe_run("torch", "numpy"),
        "threads": torch.get_num_threads(),
        "VGG19": str(options.vgg19.name) if options.vgg19 else "random weights; the time does not depend on them",
    }
    data = [f"data.folder={json.dumps(str(options.data.resolve()))}"] if options.data else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        vgg19 = options.vgg19.resolve() if options.vgg19 else write_random_vgg19(folder)
        if options.count:
            plain = ["data.batch=1", "data.workers=0", "precision.autocast=off", "precision.channels_last=false"]
            names = options.recipe or list(named_files("train"))
            settings = [*plain, *data, *options.settings]
            counts = {name: count_operations(prepare_recipe(name, settings, vgg19), folder) for name in names}
            write_counts(options.out, head, counts)
            return
        settings = [f"data.batch={options.batch}", *data, *options.settings]
        recipes = [prepare_recipe(name, settings, vgg19) for name in options.recipe or ("esrgan", "realesrgan")]
        rows = [measure(recipe, folder, options.device, options.steps) for recipe in recipes]
    write_times(options.out, head, rows)


if __name__ == "__main__":
    main()
