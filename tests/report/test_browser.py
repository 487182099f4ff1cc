"""The pages in a real browser: accessible, alone with themselves, and not too wide for a phone.

pytest -m browser, with Chromium and its driver (apt-get install chromium chromium-driver), selenium
(pip install --group browser) and axe-core (npm install axe-core, run from the folder that holds node_modules, or
AXE_CORE=path/to/axe.min.js).
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sk_bnreg.study.schemes import SCHEMES

pytestmark = pytest.mark.browser

HOW = __doc__.split("\n\n")[1].replace("\n", " ")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic",
)  # fmt: skip


@pytest.fixture(scope="module")
def axe():
    path = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
    if not path.is_file():
        pytest.skip(f"There is no {path}: {HOW}")
    return path.read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip(f"There is no Chromium: {HOW}")
    selenium = pytest.importorskip("selenium.webdriver", reason=HOW)
    options = selenium.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.binary_location = chromium
    browser = selenium.Chrome(options, selenium.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def pages(make_comparison, made_up_survey, made_up_study, tmp_path_factory):
    """Write a comparison of the five schemes, one of all with names to be escaped, one of a study, and a survey."""
    folder = tmp_path_factory.mktemp("pages")
    make_comparison().report(folder / "five.html", table="customers.csv", command="sk-bnreg compare customers.csv")
    make_comparison(tuple(SCHEMES), rename=lambda name: f"a rather long <name> for {name}").report(folder / "all.html")
    replace(make_comparison(), study=made_up_study).report(folder / "study.html")
    made_up_survey.report(folder / "survey.html", command="sk-bnreg survey tables")
    return folder


@pytest.mark.parametrize("name", ["five", "all", "study", "survey"])
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_and_no_request_leaves_the_page(browser, axe, pages, name, mode, width):
    violations, resources = look_at(browser, axe, pages / f"{name}.html", mode, width)
    assert violations == []
    assert resources == []


def look_at(browser, axe, page, mode, width):
    """Open a page; return what axe objects to and what the page asked for. It must not be wider than the screen."""
    features = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == 390}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_script(axe)
    violations = browser.execute_async_script(
        "const done = arguments[0]; axe.run().then(r => done(r.violations.map(v => v.id + ': ' + v.nodes[0].html)))"
    )
    return violations, browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")


SITE = Path(__file__).parents[2] / "docs" / "_build"
OF_SITE = ("index", "results", "guide/verdicts", "api/sk_bnreg.BNMLPClassifier", "gallery/plot_drop_in")


@pytest.mark.parametrize("name", OF_SITE)
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_in_the_documentation(browser, axe, name, mode, width):
    page = SITE / f"{name}.html"
    if not page.is_file():
        pytest.skip("The documentation is not built: sphinx-build -W docs docs/_build")
    violations, resources = look_at(browser, axe, page, mode, width)
    assert violations == []
    assert [resource for resource in resources if not resource.startswith("file:")] == []
