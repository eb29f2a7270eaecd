"""The page in a real browser: it draws, asks for nothing, and can be read, pointed at, clicked, tabbed and printed."""

from __future__ import annotations

import base64

import pytest
from browser import Browser, Tab, find_browser
from synthetic_sweeps import confirmed, write_runs

from vsae_search.report import write_report
from vsae_search.search.records import load_sweep

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; on Debian: apt-get install chromium")

# the smallest contrast between text and what lies behind it, over everything that holds text of its own
CONTRAST = """(() => {
  const channel = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  for (const element of document.querySelectorAll("body *:not(.plot *):not(script):not(style):not(noscript)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 120)];
  }
  return worst;
})()"""
DRAWN = """[...document.querySelectorAll(".plot")].map((plot) => [plot.id,
  plot.querySelectorAll(".point, .js-line, .js-fill, .bars path, .hm image, .heatmaplayer image").length])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a confirmed sweep whose trials have MLflow runs."""
    folder = tmp_path_factory.mktemp("browser")
    directory = confirmed(folder / "sweep")
    write_runs(directory, load_sweep(directory)[1])
    return write_report(directory, folder / "out").html


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    running = Browser(PROGRAM, tmp_path_factory.mktemp("chromium"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def opened(browser, page):
    """The page, drawn, 1280 pixels wide."""
    first = Tab(browser)
    first.open(page)
    return first


@pytest.fixture
def tab(opened):
    """That page, in front of every other."""
    opened.show()
    return opened


def screenshot(tab, path):
    path.write_bytes(base64.b64decode(tab.call("Page.captureScreenshot")["data"]))
    assert path.read_bytes().startswith(b"\x89PNG")


def place(tab, selector):
    """Middle of an element, scrolled into view."""
    return tab.run(
        f"""(() => {{ const element = document.querySelector({selector!r});
        element.scrollIntoView({{block: "center", behavior: "instant"}});
        const box = element.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
    )


def test_every_figure_is_drawn_without_a_complaint_or_a_request(tab, page):
    counts = dict(tab.run(DRAWN))
    assert set(counts) >= {"figure-frontier", "figure-ownership", "figure-difference", "figure-hypervolume"}
    assert all(counts.values()), counts
    assert tab.said() == []
    assert tab.run("violations") == []
    assert tab.requested() == [page.as_uri()]


def test_no_button_of_a_figure_sends_it_anywhere(tab):
    titles = set(tab.run("[...document.querySelectorAll('.modebar-btn')].map((one) => one.dataset.title)"))
    assert titles <= {"Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes"}


def test_the_policy_forbids_requests_and_foreign_scripts(browser, page):
    tab = Tab(browser)
    tab.open(page)
    assert tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    tab.run(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.foreign = 1';"
        " document.head.append(s); })()"
    )
    assert tab.run("window.foreign === undefined")
    assert sorted(tab.run("violations")) == ["http://127.0.0.1:9/", "inline"]
    assert len(tab.said()) >= 2, "a complaint is noticed"


def test_pointing_at_a_mark_shows_its_label_and_a_click_opens_its_run(tab):
    tab.run("void (window.open = (...given) => { window.opened = given; })")
    mark = "#figure-frontier .scatterlayer .trace:last-of-type .point"
    x, y = place(tab, mark)
    tab.mouse("mouseMoved", x - 40, y - 40)
    tab.mouse("mouseMoved", x, y)
    tab.wait("document.querySelector('#figure-frontier .hoverlayer .hovertext')")
    label = tab.run("document.querySelector('#figure-frontier .hoverlayer .hovertext').textContent")
    assert "L0" in label
    assert "delta-CE" in label
    tab.click(x, y)
    tab.wait("window.opened")
    address, where, how = tab.run("window.opened")
    assert address.startswith("http://127.0.0.1:5000/#/experiments/1/runs/")
    assert (where, how) == ("_blank", "noopener")


def test_buttons_work_by_keyboard(tab):
    figure = "document.getElementById('figure-frontier')"
    tab.run("document.querySelector('button[data-figure=figure-frontier][aria-pressed=false]').focus()")
    before = tab.run(f"{figure}.layout.yaxis.type")
    tab.press("Enter", 13, "\r")
    tab.wait(f"{figure}.layout.yaxis.type !== '{before}'")
    assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    tab.run("document.querySelector('table[data-sortable] th button').focus()")
    tab.press(" ", 32, " ")
    tab.wait("document.activeElement.closest('th').getAttribute('aria-sort') === 'ascending'")


def test_tab_reaches_everything_in_the_order_of_the_page(tab):
    tab.run("(() => { scrollTo(0, 0); document.activeElement.blur(); getSelection().removeAllRanges(); })()")
    tab.run(
        "[...document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]')]"
        ".filter((e) => e.checkVisibility() && !e.closest('.plot .svg-container'))"
        ".forEach((e, i) => { e.dataset.place = i; })"
    )
    wanted = tab.run("document.querySelectorAll('[data-place]').length")
    visited = []
    for _ in range(wanted + 60):
        tab.press("Tab", 9)
        visited.append(tab.run("document.activeElement.dataset.place ?? null"))
    reached = [int(one) for one in visited if one is not None]
    first = reached.index(0)
    assert list(dict.fromkeys(reached[first:] + reached[:first])) == list(range(wanted))
    assert wanted > 30


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_everything_can_be_read(tab, tmp_path, width, scheme):
    tab.media(scheme=scheme)
    tab.resize(width)
    tab.wait(f"[...document.querySelectorAll('.plot .main-svg')].every((svg) => svg.clientWidth <= {width})")
    assert tab.run("document.scrollingElement.scrollWidth") <= width
    ratio, where = tab.run(CONTRAST)
    assert ratio >= 4.5, where
    panel = "getComputedStyle(document.querySelector('.plot')).backgroundColor"
    tab.wait(f"getComputedStyle(document.querySelector('.plot .bg, .plot .main-svg')).backgroundColor === {panel}")
    assert (tab.run(panel) == "rgb(255, 255, 255)") == (scheme == "light")
    screenshot(tab, tmp_path / f"{width}-{scheme}.png")
    tab.resize(1280)
    tab.media()


HEIGHTS = """[...document.querySelectorAll(".plot")].every((plot) => [plot.offsetHeight,
  plot.querySelector(".main-svg").clientHeight].every((height) => Math.abs(height - plot.dataset.height) <= 2))"""
CUT_TITLES = """[...document.querySelectorAll(".plot")].flatMap((plot) => {
  const box = plot.getBoundingClientRect();
  return [...plot.querySelectorAll(".xtitle, .ytitle")].filter((title) => {
    const own = title.getBoundingClientRect();
    return own.left < box.left || own.right > box.right || own.top < box.top || own.bottom > box.bottom;
  }).map((title) => `${plot.id}: ${title.textContent}`); })"""


def test_a_change_of_width_leaves_figures_their_height(tab):
    assert tab.run(HEIGHTS)
    tab.resize(700)
    tab.wait("[...document.querySelectorAll('.plot .main-svg')].every((svg) => svg.clientWidth <= 700)")
    assert tab.run(HEIGHTS)
    tab.resize(1280)


@pytest.mark.parametrize("width", [400, 1280])
def test_no_title_is_cut_off(browser, page, width):
    tab = Tab(browser, width)
    tab.open(page)
    tab.show()
    assert tab.run(CUT_TITLES) == []


def test_the_buttons_of_a_figure_stand_beside_its_legend(browser, page):
    hovers = "query === '(hover: hover)' ? { matches: true } : own(query)"
    tab = Tab(browser, 400, before=f"window.matchMedia = ((own) => (query) => {hovers})(matchMedia);")
    tab.open(page)
    tab.show()
    covered = tab.run(
        """[...document.querySelectorAll(".plot")].flatMap((plot) => {
          const bar = plot.querySelector(".modebar").getBoundingClientRect();
          return [...plot.querySelectorAll(".legend .legendtext")].filter((text) => {
            const own = text.getBoundingClientRect();
            return own.right > bar.left && own.top < bar.bottom;
          }).map((text) => `${plot.id}: ${text.textContent}`); })"""
    )
    assert tab.run("document.querySelectorAll('.plot .modebar-btn').length") > 10
    assert tab.run("document.querySelectorAll('.plot .legendtext').length") > 10
    assert covered == []


def test_it_prints_everything_on_white(tab, tmp_path):
    tab.media("print", "dark")
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.run("[...document.querySelectorAll('.controls')].every((e) => !e.checkVisibility())")
    tab.media()
    tab.run(
        "(() => { window.printed = null; addEventListener('beforeprint', () => { window.printed = "
        "[[...document.querySelectorAll('details')].every((e) => e.open), document.documentElement.className]; }); })()"
    )
    paper = base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"])
    (tmp_path / "report.pdf").write_bytes(paper)
    assert paper.startswith(b"%PDF")
    assert paper.count(b"/Type /Page\n") >= 3
    every_open, names = tab.run("window.printed")
    assert every_open
    assert "printing" in names
    tab.wait("!document.documentElement.classList.contains('printing')")
    assert tab.run("[...document.querySelectorAll('details')].some((e) => !e.open)")


STILLS = (
    "[...document.querySelectorAll('.still')].map((e) => e.complete && e.naturalWidth > 100 && e.checkVisibility())"
)
PLOTS = "[...document.querySelectorAll('.plot, .controls')].filter((e) => e.checkVisibility()).length"


def test_a_browser_that_cannot_inflate_shows_the_pictures(browser, page):
    tab = Tab(browser, before="delete window.DecompressionStream;")
    tab.open(page)
    tab.wait(f"{STILLS}.every(Boolean)")
    assert len(tab.run(STILLS)) >= 3
    assert tab.run(PLOTS) == 0
    assert "needs scripts, and DecompressionStream" in tab.run("document.querySelector('figure').innerText")
    assert all(line.startswith("warning: figure-") for line in tab.said())


def test_a_browser_without_scripts_shows_the_pictures(browser, page):
    tab = Tab(browser, 400, scripts=False)
    tab.open(page, until="true")
    tab.wait(f"{STILLS}.length > 2 && {STILLS}.every(Boolean)")
    assert tab.run(PLOTS) == 0
    assert tab.run("document.scrollingElement.scrollWidth") <= 400
