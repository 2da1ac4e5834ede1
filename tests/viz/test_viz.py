"""Pictures: they show what the oracle computes, and look the same in every style."""

import base64
import io
import itertools
import os
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
import jaxconv.train.plots
from jaxconv import viz
from support.oracle import Case, compute

matplotlib = pytest.importorskip("matplotlib")
rng = np.random.default_rng(0)

CASES = [
    {"padding": "VALID"},
    {"padding": "SAME", "strides": 2},
    {"padding": ((2, 0), (0, 1)), "strides": (1, 2), "dilation": (2, 1)},
    {"padding": "CIRCULAR", "dilation": 2},
    {"padding": ((-1, 1), (1, -2))},
    {"padding": ("REFLECT", "FULL")},
]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def minus(value):
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def expected(x, kernel, options):
    """By ``jaxconv.conv``, which is tested against the oracle elsewhere."""
    y = jaxconv.conv(x[None, ..., None].astype(np.float32), kernel[..., None, None], **options)
    return np.asarray(y)[0, ..., 0]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_sliding_shows_the_result_and_the_window_it_comes_from(options):
    x, kernel = rng.integers(-5, 9, (6, 7)), rng.integers(-3, 4, (3, 2)).astype(np.float32)
    result = expected(x, kernel, options)
    drawn = viz.sliding(x, kernel, **options)
    left, middle, right = drawn.axes
    assert texts(right) == [minus(value) for value in result.ravel()]
    assert texts(middle) == [minus(value) for value in kernel.ravel()]
    window = [text for text in texts(left) if not text.startswith("×")][-kernel.size :]
    weights = [text.removeprefix("×") for text in texts(left) if text.startswith("×")]
    numbers = [
        [float(text.replace("\N{MINUS SIGN}", "-")) for text in row] for row in (window, weights)
    ]
    assert np.dot(*numbers) == pytest.approx(result[-1, -1])


def test_sliding_agrees_with_the_oracle():
    case = Case(1, 1, 1, (5, 6), (2, 3), (2, 1), ((0, 0), (0, 0)), (1, 2))
    x, kernel = rng.integers(0, 9, (5, 6)), rng.integers(-3, 4, (2, 3))
    drawn = viz.sliding(x, kernel, padding="VALID", strides=(2, 1), dilation=(1, 2))
    exact = compute("g", case, x=x[None, ..., None], k=kernel[..., None, None])
    assert texts(drawn.axes[2]) == [minus(value) for value in exact.ravel()]


def test_sliding_at_a_position_leaves_later_outputs_blank():
    drawn = viz.sliding(np.ones((4, 4)), np.ones((3, 3)), position=(1, 2))
    assert len(texts(drawn.axes[2])) == 4 + 3


def test_sliding_of_one_axis():
    drawn = viz.sliding([1, 2, 3, 4], [1, 10], padding="CAUSAL", dilation=2)
    assert texts(drawn.axes[2]) == ["10", "20", "31", "42"]
    assert drawn.get_suptitle() == "2 taps over 4 → 4, dilation 2"


IMAGES = {"a.gif": "GIF", "a.png": "PNG", "a.apng": "PNG", "a.WEBP": "WEBP"}


@pytest.mark.parametrize("name", IMAGES)
def test_animate_has_one_frame_per_output(tmp_path, name):
    from PIL import Image

    path = viz.animate(np.eye(4), np.ones((2, 2)), tmp_path / name, strides=2, seconds=0.2)
    with Image.open(path) as image:
        assert image.format == IMAGES[name]
        assert image.n_frames == 4
        assert image.info["loop"] == 0
        durations, frames = [], []
        for _ in map(image.seek, range(4)):
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    assert durations == [200] * 4
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.html", "a.HTML"])
def test_animate_writes_a_page_with_all_frames(tmp_path, name):
    """Also those that matplotlib's limit for embedded animations would drop."""
    from PIL import Image

    with matplotlib.rc_context({"animation.embed_limit": 0.01}):
        path = viz.animate(np.eye(4), np.ones((2, 2)), tmp_path / name, strides=2, seconds=0.2)
    page = path.read_text()
    embedded = re.findall(r"data:image/png;base64,([^\"]+)", page)
    frames = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in embedded]
    written = viz.animate(np.eye(4), np.ones((2, 2)), tmp_path / "a.png", strides=2)
    with Image.open(written) as image:
        for index, frame in enumerate(frames):
            image.seek(index)
            np.testing.assert_array_equal(frame, image.convert("RGB"))
    assert len(frames) == 4
    assert "<script" in page
    assert sorted(tmp_path.iterdir()) == sorted([path, written])


FAKE_FFMPEG = """#!{python}
import sys
size = len(sys.stdin.buffer.read())
open(sys.argv[-1], "w").write(" ".join(sys.argv[1:]) + f" bytes {{size}}")
"""


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_animate_writes_a_movie_by_ffmpeg(tmp_path):
    """A program in its place writes what ffmpeg is called with: a rate, a codec and four frames."""
    program, folder = tmp_path / "ffmpeg", tmp_path / "written"
    program.write_text(FAKE_FFMPEG.format(python=sys.executable))
    program.chmod(0o755)
    folder.mkdir()
    with matplotlib.rc_context({"animation.ffmpeg_path": str(program)}):
        options = {"strides": 2, "seconds": 0.25}
        path = viz.animate(np.eye(4), np.ones((2, 2)), folder / "a.mp4", **options)
    called = path.read_text()
    assert list(folder.iterdir()) == [path]
    width, height = map(int, re.search(r"-s (\d+)x(\d+)", called).groups())
    assert int(called.split()[-1]) == 4 * 4 * width * height
    assert "-framerate 4.0" in called
    assert "h264" in called


@pytest.mark.parametrize("name", ["a.mp4", "a.bmp", "a", ".gif"])
def test_animate_checks_the_suffix_before_drawing(tmp_path, name):
    words = r"^animate: path must end in one of \.apng, \.gif, \.html, \.png, \.webp, .*" + name
    with (
        matplotlib.rc_context({"animation.ffmpeg_path": "no such program"}),
        pytest.raises(ValueError, match=words) as error,
    ):
        viz.animate("nothing to draw", None, tmp_path / name)
    assert ("needs ffmpeg" in str(error.value)) == (name == "a.mp4")
    assert not list(tmp_path.iterdir())


def test_dilations_color_only_the_taps():
    drawn = viz.dilations(3, (1, 2, 4))
    for axes, extent in zip(drawn.axes, (3, 5, 9), strict=True):
        colors = [patch.get_facecolor() for patch in axes.patches]
        assert len(colors) == extent**2
        assert sorted(map(colors.count, set(colors))) == sorted({9, extent**2 - 9} - {0})


def test_dilation_tree_marks_the_inputs_of_the_last_output():
    drawn = viz.dilation_tree((1, 2, 4), kernel_size=3, length=20)
    assert "sees 15 inputs" in drawn.get_suptitle()
    fills = [collection.get_facecolor() for collection in drawn.axes[0].collections]
    seen = [int((fill == fill[-1]).all(1).sum()) for fill in fills]
    assert seen == [15, 7, 3, 1]


def test_separable_counts_as_cost_does():
    x = np.ones((1, 20, 20, 8), np.float32)
    halves = np.ones((3, 3, 1, 8), np.float32), np.ones((1, 1, 8, 6), np.float32)
    counted = jaxconv.cost(jaxconv.separable_conv, x, *halves)
    dense = jaxconv.cost(jaxconv.conv, x, np.ones((3, 3, 8, 6), np.float32))
    title = viz.separable((20, 20), 8, 6).get_suptitle()
    assert f" {counted.parameters} parameters" in title
    assert title.endswith(f" {dense.parameters}")


def test_pointwise_multiplies():
    pixel, kernel = [3, 1, 4], rng.integers(-4, 5, (3, 5))
    drawn = viz.pointwise(pixel, kernel)
    assert texts(drawn.axes[2]) == [minus(value) for value in pixel @ kernel]


def test_influence_fills_the_analytic_box():
    kernel = np.ones((3, 3, 1, 1), np.float32)
    drawn = viz.influence(
        lambda x: jaxconv.conv(jaxconv.conv(x, kernel), kernel, strides=2, dilation=2),
        np.zeros((30, 40), np.float32),
        position=(5, 9),
    )
    heat = drawn.axes[0].images[1].get_array()
    (box,) = drawn.axes[0].patches
    rows, columns = np.nonzero(heat)
    assert (box.get_y(), box.get_height()) == (rows.min(), np.ptp(rows) + 1)
    assert (box.get_x(), box.get_width()) == (columns.min(), np.ptp(columns) + 1)


def test_costs_have_one_bar_each():
    x = np.ones((1, 8, 8, 4), np.float32)
    counted = {
        name: jaxconv.cost(jaxconv.conv, x, np.ones((k, k, 4, 4), np.float32))
        for name, k in (("3×3", 3), ("5×5", 5))
    }
    drawn = viz.costs(counted)
    widths = [[bar.get_width() for bar in axes.patches] for axes in drawn.axes]
    assert widths == [[144, 400], [144 * 64, 400 * 64]]


PICTURES = {
    "sliding": lambda: viz.sliding(np.eye(4), np.ones((3, 3))),
    "dilations": viz.dilations,
    "dilation_tree": viz.dilation_tree,
    "separable": viz.separable,
    "pointwise": lambda: viz.pointwise([1, 2], [[1], [2]]),
    "influence": lambda: viz.influence(lambda x: x, np.ones((9, 9), np.float32)),
    "costs": lambda: viz.costs(
        {
            "one": jaxconv.cost(
                jaxconv.conv, np.ones((1, 4, 4, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)
            )
        }
    ),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_the_same_in_a_dark_style(name, tmp_path):
    """The background is opaque and every color explicit, so a notebook's style has no effect."""
    import matplotlib.image
    import matplotlib.style

    seen = []
    for style in ("default", "dark_background"):
        with matplotlib.style.context(style):
            seen.append(
                matplotlib.image.imread(viz.save(PICTURES[name](), tmp_path / f"{style}.png"))
            )
    np.testing.assert_array_equal(*seen)
    assert (seen[0][..., 3] == 1).all()
    assert seen[0][..., :3].std() > 0.02  # not blank


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: viz.sliding(np.ones((3, 3, 3)), np.ones((2, 2, 2))), r"\(3, 3, 3\)"),
        (lambda: viz.sliding(np.ones((30, 30)), np.ones((3, 3))), "1 to 400 cells"),
        (lambda: viz.sliding(np.ones((3, 3)), np.ones((3, 3)), position=(3, 0)), "3×3 output"),
        (lambda: viz.sliding(np.ones((3, 3)), np.ones((3, 3)), position=1), "3×3 output.* got 1"),
        (lambda: viz.animate(np.ones((3, 3)), np.ones((3, 3)), "x.gif", seconds=0), "positive"),
        (lambda: viz.sliding(np.ones((3, 3)), np.ones((5, 5)), padding="VALID"), "must fit"),
        (lambda: viz.dilations(3, ()), "at least one rate is needed"),
        (lambda: viz.dilations(3, (0,)), "a rate of 1 leaves no gap between taps"),
        (lambda: viz.dilation_tree([2**i for i in range(10)]), "1 to 64 time steps"),
        (lambda: viz.separable(channels=9), "channels must be 1 to 8"),
        (lambda: viz.pointwise([1, 2], [[1], [2], [3]]), r"\(3, 1\)"),
        (lambda: viz.influence(lambda x: x, np.ones(4)), r"\(4,\)"),
        (lambda: viz.influence(lambda x: x, np.ones((4, 4)), (4, 0)), "4×4 output"),
        (lambda: viz.costs({}), "at least one"),
        (lambda: viz.costs({"dense": 5}), "must be a result of jaxconv.cost, but got int"),
    ],
)  # fmt: skip
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_notebooks_display_the_picture_with_its_alternative_text():
    pictures, metadata = viz.sliding([1, 2, 3], [1, 1], padding="VALID")._repr_mimebundle_()
    assert pictures["image/png"].startswith(b"\x89PNG")
    alt = "2 taps over 3 → 2. input, kernel, output. 2·1 + 3·1 = 5"
    assert metadata == {"image/png": {"alt": alt}}


MAGIC = {
    "a.png": b"\x89PNG\r\n",
    "a.svg": b"<?xml",
    "a.pdf": b"%PDF-",
    "a.jpg": b"\xff\xd8\xff",
    "a.tar.PDF": b"%PDF-",
    "a.svgz": b"\x1f\x8b",
    "a.eps": b"%!PS",
}


@pytest.mark.parametrize("name", MAGIC)
def test_the_suffix_is_the_format_of_a_saved_picture(tmp_path, name):
    (tmp_path / name).write_bytes(b"an earlier picture")
    path = viz.save(viz.dilations(3, (1,)), tmp_path / name)
    assert path.read_bytes().startswith(MAGIC[name])
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("save", [viz.save, jaxconv.train.plots.save], ids=["viz", "train"])
@pytest.mark.parametrize("name", ["picture", "picture.xyz", ".png"])
def test_save_lists_the_supported_suffixes(tmp_path, name, save):
    with pytest.raises(ValueError, match=rf"^save: path .*\.pdf, .*\.png, .*\.svg, .*{name}'$"):
        save(viz.dilations(3, (1,)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_nothing(tmp_path):
    drawn = viz.dilations()
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError, match=r"taken\.png"):
        viz.save(drawn, tmp_path / "taken.png")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]
    with pytest.raises(FileNotFoundError, match=r"missing/picture\.png'$"):
        viz.save(drawn, tmp_path / "missing" / "picture.png")


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (viz.dilations, lambda: viz.animate(np.eye(3), np.ones((2, 2)), "a.gif")):
        with pytest.raises(ImportError, match=r"jaxconv\[demo\]"):
            call()


def test_influence_says_where_the_gradient_is_zero():
    drawn = viz.influence(lambda x: jnp.maximum(x - 2, 0), np.ones((9, 9), np.float32))
    assert "the gradient is zero here" in drawn.axes[0].get_title()
    drawn = viz.influence(lambda x: x, np.ones((9, 9), np.float32))
    assert drawn.axes[0].get_title().startswith("orange: influence")
