"""The playground: in a browser it computes what jaxconv computes, and says what jaxconv says."""

import hashlib
import itertools
import pathlib
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest

import jaxconv
import sources
from jaxconv import viz
from jaxconv.viz.page import KEYS
from support import browser as browsers
from support.playground_cases import KINDS, Setting, expected, settings

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "jaxconv" / "viz" / "playground.html"
SOURCES = ROOT / "docs" / "playground"
SPEC = jaxconv.explain(
    lambda x: jaxconv.conv(x, np.ones((3, 2, 4, 6), np.float32), padding=((1, 2), (0, -1))),
    np.ones((1, 7, 9, 4), np.float32),
).convs[0].spec  # fmt: skip


# The file


def test_the_page_is_built_from_its_sources():
    """Run ``npm ci && npm run build`` in docs/playground after changing them."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*"), key=lambda path: path.relative_to(SOURCES).as_posix()):
        name = path.relative_to(SOURCES).as_posix()
        if path.is_file() and not name.startswith("node_modules/"):
            digest.update(f"{name}\n".encode() + path.read_bytes())
    assert f'<meta name="sources" content="{digest.hexdigest()}" />' in PAGE.read_text()


@pytest.mark.skipif(
    not (SOURCES / "node_modules" / "esbuild").exists() or shutil.which("node") is None,
    reason="no esbuild: npm ci in docs/playground",
)
def test_a_new_build_is_the_same(tmp_path):
    built = tmp_path / "page.html"
    subprocess.run(["node", SOURCES / "build.mjs", built], check=True)
    assert built.read_bytes() == PAGE.read_bytes()


def test_the_page_is_small_and_names_no_address():
    page = PAGE.read_text()
    assert len(page.encode()) <= 300_000
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", page))
    assert addresses <= {"http://www.w3.org"}  # the namespace of SVG


# jaxconv.viz.playground


def test_a_spec_is_what_the_page_starts_with():
    page = viz.playground(SPEC)
    assert page.state == "#kind=standard&n=7x9&c=4&f=6&k=3x2&s=1x1&d=1x1&p=1:2x0:-1&g=1"
    assert f'data-state="{page.state.replace("&", "&amp;")}"' in page.html
    depthwise = viz.playground(SPEC.replace(groups=4, out_features=8))
    assert "kind=depthwise" in depthwise.state
    assert "&m=2&" in depthwise.state


def test_notebooks_show_the_page_in_a_frame():
    shown = viz.playground()._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert shown.count('"') == len(re.findall(r' \w+="', shown)) * 2  # all else is escaped


def test_the_page_is_saved_whole(tmp_path):
    path = viz.playground("#kind=causal&n=12").save(tmp_path / "page.html")
    assert path.read_text() == viz.playground("kind=causal&n=12").html
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"^playground: path must end in one of \.htm, \.html,"):
        viz.playground().save(tmp_path / "page.png")


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        (np.ones((3, 3)), TypeError, "must be a ConvSpec.* but got numpy.ndarray"),
        (3, TypeError, "must be a ConvSpec.* but got builtins.int"),
        ("depthwise", ValueError, "parts KEY=VALUE joined by.* but got 'depthwise'"),
        ("kind=causal&size=3", ValueError, "KEY one of kind, n, .* but got 'size=3'"),
        ('n=7"><script>', ValueError, "but got 'n=7"),
        ("", ValueError, "but got ''"),
        (
            SPEC.replace(
                input_spatial=(4, 4, 4),
                kernel_spatial=(1, 1, 1),
                strides=(1, 1, 1),
                padding=((0, 0),) * 3,
                dilation=(1, 1, 1),
            ),
            ValueError,
            r"one or two spatial axes of known extents, but its input is \(1, 4, 4, 4, 4\)",
        ),
    ],
)
def test_what_is_no_spec_is_refused(spec, error, words):
    with pytest.raises(error, match=f"^playground: spec .*{words}"):
        viz.playground(spec)


# In the browser


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def page(browser):
    with browsers.opened(browser, PAGE.as_uri(), viewport={"width": 1280, "height": 900}) as page:
        yield page


FOLLOW = """link => new Promise(done => {
  addEventListener("hashchange", done, { once: true });
  location.hash = link;
})"""


def visit(page, link: str) -> None:
    """Follows a link within the page, which is faster than loading it anew."""
    page.evaluate(FOLLOW, link or "#")


VISIT_ALL = """async ([links, read]) => {
  const found = [];
  for (const link of links) {
    await new Promise(done => {
      addEventListener("hashchange", done, { once: true });
      location.hash = link;
    });
    found.push(new Function(read)());
  }
  return found;
}"""


def visited(page, links, read: str) -> list:
    """What the body ``read`` of a function returns after each link was followed, in one call."""
    return page.evaluate(VISIT_ALL, [list(links), read])


# The sentence about an impossible setting, and the number of cells drawn.
FAULT_AND_CELLS = """const box = document.getElementById("fault");
return [box.hidden ? "" : box.innerText, document.querySelectorAll("#picture svg rect").length];"""

# All that the page knows about a list of links, in one call.
EVALUATE = """links => links.map(link => {
  const p = jaxconvPlayground;
  const { state, faults } = p.read(link);
  const { shown, resolved, faults: sentences } = p.view(state, faults);
  const stages = p.arraysOf(resolved, { ...shown, view: "input_grad" });
  const forward = p.arraysOf(resolved, { ...shown, view: "forward" });
  const last = resolved.stages.at(-1), first = resolved.stages[0];
  const [x, y] = first.transposed ? ["g", "x"] : ["x", "g"];
  const axes = first.conv.axes.slice(2 - resolved.rank);
  return {
    sentences,
    link: p.write(shown),
    again: p.write(p.read(p.write(shown)).state),
    possible: p.possible(shown),
    output: p.shapesOf(resolved).output,
    y: [...forward.at(-1)[y]],
    gradients: [[...stages[0].result[x]], ...stages.map(each => [...each.result.k])],
    cost: p.totalCost(resolved.stages.map(each => each.conv)),
    field: axes.map(first.transposed ? p.transposedField : p.receptiveField),
    python: p.program({ ...shown, view: "filter_grad" }, resolved, p.shapesOf(resolved).output),
    line: p.program({ ...shown, view: "forward" }, resolved, p.shapesOf(resolved).output),
  };
})"""


@browsers.needs_browser
@pytest.mark.parametrize(
    "count", [45, pytest.param(300, marks=pytest.mark.slow)], ids=lambda count: f"{count} settings"
)
def test_numbers_shapes_costs_and_gradients_are_those_of_jaxconv(page, count):
    candidates = settings(count, count + count // 2)
    chosen = [setting for setting in candidates if not setting.error()][:count]
    assert len(chosen) == count
    assert all(any(f"kind={kind}&" in setting.link for setting in chosen) for kind in KINDS)
    got = page.evaluate(EVALUATE, [setting.link for setting in chosen])
    for setting, one, (y, *gradients) in zip(chosen, got, expected(chosen), strict=True):
        assert not one["sentences"], setting
        assert tuple(one["output"]) == y.shape, setting
        np.testing.assert_array_equal(one["y"], y.ravel(), err_msg=setting.link)
        for mine, theirs in zip(one["gradients"], gradients, strict=True):
            np.testing.assert_array_equal(mine, theirs.ravel(), err_msg=setting.link)
        counted = jaxconv.cost(setting.call, *setting.structs())
        assert one["cost"] == {"parameters": counted.parameters, "macs": counted.macs}, setting
        assert one["again"] == one["link"], setting


def covers_every_phase(setting, axis) -> bool:
    """Whether a transposed convolution has no outputs that read nothing; jaxconv counts these."""
    if "transposed" not in setting.link:
        return True
    k, d, s = (
        setting.shapes[1][axis],
        setting.options["dilation"][axis],
        setting.options["strides"][axis],
    )
    return len({d * tap % s for tap in range(k)}) == s


@browsers.needs_browser
def test_receptive_fields_are_those_of_jaxconv(page):
    """Of zero padding, and in the middle of the output: borders repeat pixels."""
    chosen = [
        setting
        for setting in settings(5, 90)
        if not setting.error() and not re.search("circular|reflect|replicate", setting.link, re.I)
    ]
    got = page.evaluate(EVALUATE, [setting.link for setting in chosen])
    compared = 0
    for setting, one in zip(chosen, got, strict=True):
        theirs = jaxconv.receptive_field(
            lambda x, setting=setting: setting.call(x, *setting.arrays()[1:]), setting.structs()[0]
        )
        outputs = jax.eval_shape(setting.call, *setting.structs()).shape[1:-1]
        for at, (axis, mine, extent) in enumerate(
            zip(theirs.axes, one["field"], outputs, strict=True)
        ):
            if "transposed" in setting.link and extent < 8:
                continue  # too few outputs for jaxconv to see every phase of the stride
            compared += 1
            assert (axis.size, str(axis.stride)) == (mine["size"], str(mine["stride"])), setting
            if covers_every_phase(setting, at):
                assert axis.offset == mine["offset"], setting
    assert compared > 60


# jaxconv may guess that arrays come from another library; those of the page never do.
LAYOUT_HINT = re.compile(r"; \w+ looks like .*(?=\. Got )")
FIX = re.compile(r"; (groups=\d+ would|kernels are laid out) .*(?=\. Got )")
TOO_MUCH_PADDING = Setting(
    "#kind=transposed&n=3&c=1&f=1&k=1&s=1&d=1&p=1:4&op=0&g=1",
    jaxconv.conv_transpose,
    ((1, 3, 1), (1, 1, 1)),
    {"padding": [(1, 4)]},
    0,
)


@browsers.needs_browser
def test_impossible_settings_have_jaxconvs_sentence_and_a_nearest_picture(page):
    candidates = [*settings(11, 500), TOO_MUCH_PADDING]
    chosen = [(setting, setting.error()) for setting in candidates]
    chosen = [(setting, error) for setting, error in chosen if error]
    assert len(chosen) > 40
    words = ("must fit", "multiple of groups", "ambiguous", "provides at most", "leaves no output",
             "not supported", "allows no output_padding", "must be less than")  # fmt: skip
    assert not [word for word in words if not any(word in error for _, error in chosen)]
    got = page.evaluate(EVALUATE, [setting.link for setting, _ in chosen])
    for (_, error), one in zip(chosen, got, strict=True):
        (sentence,) = one["sentences"]
        if LAYOUT_HINT.search(error):
            error, sentence = LAYOUT_HINT.sub("", error), FIX.sub("", sentence)
        assert sentence == error
        assert one["possible"]


BROKEN = {
    "#&": "",
    "#n=-3x7": "input_spatial must be a positive int, but got -3",
    "#n=abc": "input_spatial must be a positive int, but got 'abc'",
    "#n=99x7": "input_spatial must be at most 24, but got 99",
    "#n=5x5x5": "the playground draws one or two spatial axes, but got 3: (5, 5, 5)",
    "#k=2.5": "kernel_spatial must be a positive int, but got '2.5'",
    "#s=0": "strides must be a positive int, but got 0",
    "#s=1x1x1": "strides must be an int or have one int per spatial axis (2), but got 3: (1, 1, 1)",
    "#p=SAMEE": "padding must be one of SAME, SAME_LOWER, VALID, FULL, CAUSAL, CIRCULAR, REFLECT, "
    "REPLICATE, but got 'SAMEE'; did you mean \"SAME\"?",
    "#p=1:x": "padding entries must be names, ints or (low, high) pairs of ints, but got (1, '')",
    "#p=1x2x3": "padding must have one entry per spatial axis (2), but got 3: (1, 2, 3)",
    "#g=0": "groups must be a positive int, but got 0. Got x [N, H, W, C] = (1, 7, 7, 2), kernel "
    "[KH, KW, C/G, F] = (3, 3, 2, 3)",
    "#g=two": "groups must be a positive int, but got 'two'. Got x [N, H, W, C] = (1, 7, 7, 2), "
    "kernel [KH, KW, C/G, F] = (3, 3, 2, 3)",
    f"#{'a' * 20_000}": f"but got '{'a' * 60}…'",
    "#kind=depthwize": "but got 'depthwize'; did you mean \"depthwise\"?",
    "#kind": "the link's kind must have a value, but got 'kind'",
    "#colour=red&&n": 'the link must have parts KEY=VALUE joined by "&"',
    "#view=backward": "view must be one of forward, input_grad, filter_grad, but got 'backward'",
    "#seed=abc": "seed must be an int of at least 0, but got 'abc'",
    "#seed=-1": "seed must be an int of at least 0, but got -1",
    "#at=zz&ch=9&ft=-1": "",
    "#%%%=1": "the link must have parts",
    "#g=3&c=4&f=3": "x's channels must equal the kernel's C/G * groups, but 4 != 1 * 3 = 3",
    "#c=1000000000000000000000": "in_features must be a positive int",
    "#kind=dilated&k=11&d=8&n=24x24&p=FULL": "the playground draws at most 36 pixels",
    "#kind=transposed&n=24&s=8&p=VALID": "but the output has 187 on axis 0",
    "#kind=transposed&c=4&f=3&g=2": "but F % groups = 3 % 2 = 1",
    "#kind=grouped&c=7&f=7&g=5&k=9&d=8&n=2&p=VALID": "must be a multiple of groups",
}


@browsers.needs_browser
def test_broken_links_have_a_sentence_and_a_picture(page):
    for (link, words), (sentence, cells) in zip(
        BROKEN.items(), visited(page, BROKEN, FAULT_AND_CELLS), strict=True
    ):
        assert (sentence == "") == (words == ""), link
        assert words in sentence.replace("\n", " "), link
        assert cells > 10, link


def links_of_pages() -> set[str]:
    """Every case that the documentation and the notebooks link to."""
    files = [*sources.committed(), *(ROOT / "notebooks").glob("*.ipynb")]
    found = re.compile(r'playground\.html(#[^"\\\s]+)|^:playground: (\S+)$', re.MULTILINE)
    links = {link for path in files for link in found.findall(path.read_text())}
    return {inline or f"#{option}" for inline, option in links}


@browsers.needs_browser
def test_links_of_pages_and_notebooks_lead_to_possible_cases(page):
    links = sorted(links_of_pages())
    assert len(links) > 30
    got = page.evaluate(EVALUATE, links)
    assert not {
        link: one["sentences"] for link, one in zip(links, got, strict=True) if one["sentences"]
    }


@browsers.needs_browser
def test_the_nearest_setting_can_be_taken(page):
    visit(page, "#kind=grouped&n=6x6&c=4&f=4&k=3x3&s=1&d=1&p=SAME&g=3")
    assert "groups" in page.locator("#fault").inner_text()
    page.get_by_role("button", name="Use it").click()
    assert page.locator("#fault").is_hidden()
    assert "&g=2&" in page.url or "&g=4&" in page.url


@browsers.needs_browser
@pytest.mark.sample(5)
@pytest.mark.parametrize("kind", KINDS)
def test_the_python_computes_the_numbers_of_the_page(page, kind):
    (one,) = page.evaluate(EVALUATE, [f"#kind={kind}&seed=2"])
    forward, gradient = {}, {}
    exec(one["line"], forward)
    np.testing.assert_array_equal(np.ravel(forward["y"]), one["y"])
    exec(one["python"], gradient)
    names = ["dx", *(name for name in gradient if name.startswith("d_"))]
    assert len(names) == len(one["gradients"])
    for name, mine in zip(names, one["gradients"], strict=True):
        np.testing.assert_array_equal(np.ravel(gradient[name]), mine)


@browsers.needs_browser
def test_both_know_the_same_parts_of_a_link(page):
    sentence = page.evaluate("jaxconvPlayground.read('#none=1').faults[0]")
    assert f"KEY one of {', '.join(KEYS)}, but" in sentence


@browsers.needs_browser
def test_the_ledger_of_the_notebook(page):
    """2,304 parameters for a dense 3×3 from 8 to 32, 328 for a separable one: notebooks/03."""
    visit(page, "#kind=separable&n=20x20&c=8&m=1&f=32&k=3x3&p=VALID")
    cells = page.locator("#ledger tr").all_inner_texts()
    rows = {row.split()[0]: row.replace("\t", " ") for row in cells if row.strip()}
    assert "2,304" in rows["dense"]
    assert "746,496" in rows["dense"]
    assert "328" in rows["separable"]
    assert "106,272" in rows["separable"]


def at(page) -> str:
    return page.locator("#picture [data-result]").get_attribute("data-result")


@browsers.needs_browser
def test_a_walk_through_the_page_with_keys(page):
    assert at(page) == "3,3"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert at(page) == "2,4"
    assert page.url.endswith("&at=2,4")
    assert "row 2, column 4" in page.get_by_role("status").inner_text()
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    assert at(page) == "6,6"
    page.keyboard.press("Home")
    assert at(page) == "0,0"
    page.keyboard.press("f")
    assert "&ft=1" in page.url
    page.keyboard.press("c")
    page.keyboard.press("Shift+c")
    assert "&ch=" not in page.url
    page.select_option("#speed", "200")
    page.locator("#picture").focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('[data-result]').dataset.result !== '0,0'")
    page.keyboard.press("Space")
    stopped = at(page)
    page.wait_for_timeout(450)
    assert at(page) == stopped
    # Radio buttons and fields by keyboard alone.
    page.get_by_role("radio", name="Standard").focus()
    page.keyboard.press("ArrowRight")
    assert "kind=strided" in page.url
    page.get_by_role("spinbutton", name="Input rows").fill("6")
    page.keyboard.press("Tab")
    assert "n=6x8" in page.url
    page.get_by_role("spinbutton", name="Input rows").fill("-2")
    page.keyboard.press("Tab")
    assert "must be a positive int, but got -2" in page.locator("#fault").inner_text()
    assert page.locator("#picture svg rect").count() > 10


@browsers.needs_browser
def test_a_walk_through_the_page_with_the_mouse(page):
    page.get_by_role("radio", name="Depthwise", exact=True).check()
    assert "kind=depthwise" in page.url
    page.get_by_role("button", name="Step forward").click()
    assert at(page) == "3,4"
    box = page.locator("#picture [data-tap='1,1']").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 2 * box["width"], y - box["height"], steps=4)
    page.mouse.up()
    assert at(page) == "2,2"
    page.get_by_role("radio", name="Input gradient", exact=True).check()
    assert "view=input_grad" in page.url
    page.locator("#picture [data-result]").click(force=True)
    page.get_by_role("button", name="feature: more").or_(
        page.get_by_role("button", name="channel: more")
    ).first.click()
    assert "&ch=1" in page.url
    page.get_by_role("radio", name="Filter gradient", exact=True).check()
    assert at(page) == "1,1"
    page.select_option("#p", "CIRCULAR")
    assert "p=CIRCULAR" in page.url
    page.select_option("#p", "axes")
    page.select_option("#p0", "low, high")
    page.get_by_role("button", name="Padding rows high: more").click()
    assert "p=1:2xCIRCULAR" in page.url
    page.get_by_role("radio", name="Separable", exact=True).check()
    page.get_by_role("radio", name="2 · 1×1").check()
    assert "stage=pointwise" in page.url
    page.get_by_role("link", name="328 parameters").click()
    assert "c=8&m=1&f=32" in page.url
    dark = page.get_by_role("button", name="Dark")
    before = dark.get_attribute("aria-pressed")
    dark.click()
    assert dark.get_attribute("aria-pressed") != before


@browsers.needs_browser
def test_the_picture_shows_the_numbers_that_it_explains(page):
    """The sum in the sentence is the sum of the products written below, in every view."""
    views = ("forward", "input_grad", "filter_grad")
    links = [f"#kind={kind}&view={view}" for kind in KINDS for view in views]
    read = """const terms = [...document.querySelectorAll("#equation .terms")];
        const spoken = document.querySelector("[role=status]").innerText;
        return [terms.map(each => each.innerText), spoken];"""
    for link, (terms, spoken) in zip(links, visited(page, links, read), strict=True):
        total = float(terms[-1].split("=")[-1].replace("−", "-"))
        products = terms[0].split(": ")[-1].split(" = ")
        if "…" not in products[0]:
            value = eval(products[0].replace("−", "-").replace("·", "*"))
            assert value == float(products[1].replace("−", "-")), link
        said = spoken.rstrip(".").split(" ")[-1]
        assert float(said.replace("−", "-")) == total, link


@browsers.needs_browser
def test_pictures_are_exported(page, tmp_path):
    from PIL import Image

    visit(page, "#kind=standard&n=4x3&c=1&f=1&k=2x2&p=VALID")
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").click()
    svg = pathlib.Path(download.value.path()).read_text()
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "var(" not in svg
    with page.expect_download() as download:
        page.get_by_role("button", name="GIF").click()
    assert download.value.suggested_filename == "convolution-standard-forward.gif"
    with Image.open(download.value.path()) as image:
        assert image.n_frames == 3 * 2
        assert image.info["loop"] == 0
        assert image.info["duration"] == 600
        frames = []
        for frame in range(image.n_frames):
            image.seek(frame)
            frames.append(np.asarray(image.convert("RGB")))
    assert all((first != second).any() for first, second in itertools.pairwise(frames))
    assert (frames[0][0, 0] >= 250).all()  # the card's white


@browsers.needs_browser
def test_the_page_works_in_a_notebooks_frame(page):
    shown = viz.playground("kind=dilated&n=9x9&k=3x3&d=3&at=4,4")._repr_html_()
    page.set_content(f"<!doctype html><title>notebook</title>{shown}")
    frame = page.frame_locator("iframe")
    frame.locator("#picture [data-result='4,4']").wait_for()
    frame.get_by_role("button", name="Step forward").click()
    frame.locator("#picture [data-result='4,5']").wait_for()
    frame.get_by_role("link", name="WaveNet").click()
    frame.locator("#picture [data-result='0,9']").wait_for()


@browsers.needs_browser
@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "link", ["", "#kind=separable&view=filter_grad&p=1:2xSAME", "#kind=grouped&g=3"]
)
def test_nothing_is_inaccessible_or_cut_off(browser, link):
    """On a screen and on a phone, in light and dark."""
    pytest.importorskip("axe_playwright_python")
    options = {"viewport": {"width": 1280, "height": 850}, "color_scheme": "light"}
    with browsers.opened(browser, f"{PAGE.as_uri()}{link}", **options) as page:
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 850})
            for scheme, rules in (("light", ()), ("dark", ["color-contrast"])):
                page.emulate_media(color_scheme=scheme)
                page.wait_for_selector(f"html[data-theme={scheme}]")
                assert not browsers.violations(page, rules=rules)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@browsers.needs_browser
def test_numbers_can_be_read_on_their_colors(page):
    """A contrast of 4.5 for every text of the pictures, in both themes."""
    worst = page.evaluate("""() => {
      const p = jaxconvPlayground, worst = [];
      for (const [name, theme] of Object.entries(p.THEMES))
        for (const link of ["", "#kind=transposed", "#kind=causal&view=input_grad", "#p=CIRCULAR",
                            "#p=-1&view=filter_grad"]) {
          const { scene } = p.view(p.read(link).state);
          const box = document.createElement("div");
          box.innerHTML = p.svgOf(scene, theme, 1000);
          const rects = [];
          const number = (each, key) => Number(each.getAttribute(key));
          for (const each of box.querySelectorAll("rect, text")) {
            const fill = each.getAttribute("fill");
            const [x, y] = [number(each, "x"), number(each, "y")];
            if (each.tagName === "rect") {
              const [width, height] = [number(each, "width"), number(each, "height")];
              if (fill !== "none") rects.push([x, y, x + width, y + height, fill]);
              continue;
            }
            const below = rects.filter(([a, b, c, d]) => x > a && x <= c && y > b && y <= d);
            worst.push([p.contrast(fill, below.at(-1)[4]), name, link, each.textContent]);
          }
        }
      return worst.sort((a, b) => a[0] - b[0])[0];
    }""")
    assert worst[0] >= 4.5, worst
