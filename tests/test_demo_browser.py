"""The page in a real browser, on the embedded model."""

import json
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("gradio")
pytest.importorskip("selenium")
from gradio_client import Client
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

pytest_plugins = ["demo_fixtures"]

EVIL = '<script>window.hacked=1</script> <img src=x onerror="window.hacked=1"> end.'
_PATIENCE = 60.0


def find(browser, css: str, *, containing: str = "") -> WebElement:
    """The first element that is shown and holds some text, once there is one."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            for each in browser.find_elements(By.CSS_SELECTOR, css):
                if each.is_displayed() and containing in each.text:
                    return each
        except StaleElementReferenceException:
            pass
        time.sleep(0.05)
    raise AssertionError(f"no {css} with {containing!r} in {_PATIENCE:.0f} s")


def visit(browser, address: str, query: str = "") -> None:
    browser.get(address + query)
    find(browser, "#hs-decompose .hs-strip")


def turn_to(browser, tab: str) -> None:
    find(browser, "button[role=tab]", containing=tab).click()


def shoot(browser, shots: Path, name: str) -> None:
    time.sleep(0.3)
    browser.save_screenshot(str(shots / f"{name}.png"))


def chosen(browser) -> dict[str, str]:
    return {k: v[0] for k, v in parse_qs(urlsplit(browser.current_url).query).items()}


def wait_for_address(browser, **wanted: str) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if wanted.items() <= chosen(browser).items():
            return
        time.sleep(0.05)
    raise AssertionError(f"{browser.current_url} does not hold {wanted}")


def test_every_tab_answers(browser, address: str, shots: Path) -> None:
    visit(browser, address)
    find(browser, 'button.hs-tok[data-pick="tok:4"]').click()
    find(browser, 'button.hs-tok[data-pick="tok:4"][aria-pressed="true"]')
    wait_for_address(browser, tok="4", sae="tiny")
    shoot(browser, shots, "decompose")
    find(browser, '[data-pick="do:steer"]').click()
    find(browser, "#hs-generate").click()
    find(browser, "#hs-steered .hs-note", containing="KL")
    shoot(browser, shots, "steer")
    turn_to(browser, "Splice")
    find(browser, "#hs-measure").click()
    find(browser, "#hs-spliced", containing="CE score")
    shoot(browser, shots, "splice")
    turn_to(browser, "Hub")
    find(browser, "#hs-here", containing="tiny")
    find(browser, '[data-pick="card:tiny"]').click()
    find(browser, "#hs-card-page pre", containing="hsae")
    find(browser, '[data-pick="verify:tiny"]').click()
    find(browser, "#hs-card-page pre", containing="every weight is finite")
    shoot(browser, shots, "hub")


def test_the_page_asks_nobody_else_and_says_no_error(browser, address: str) -> None:
    host = urlsplit(address).netloc
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            if url.scheme in ("http", "https", "ws", "wss"):
                asked.add(url.netloc)
    assert asked == {host}
    severe = [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]
    assert severe == []


def test_the_steer_tab_takes_over_what_was_looked_at(browser, address: str) -> None:
    visit(browser, address, "?sae=tiny&text=The+river+rose.&tok=2&f=7")
    turn_to(browser, "Steer")
    find(browser, "#hs-generate").click()
    find(browser, "#hs-steered .hs-note", containing="KL")
    find(browser, "#hs-steered", containing="7=+0.5")


def test_an_address_restores_the_view(browser, address: str) -> None:
    visit(browser, address, "?sae=tiny&text=The+river+rose.&tok=2&f=7")
    find(browser, 'button.hs-tok[data-pick="tok:2"][aria-pressed="true"]', containing="r")
    assert find(browser, "#hs-card h1").text.endswith("7")
    assert find(browser, "#hs-text textarea").get_attribute("value") == "The river rose."


def test_arrow_keys_move_between_tokens_and_focus_survives(browser, address: str) -> None:
    visit(browser, address, "?text=The+river+rose.&tok=1")
    browser.execute_script("document.querySelector('button.hs-tok[tabindex=\"0\"]').focus()")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait_for_address(browser, tok="2")
    find(browser, 'button.hs-tok[data-pick="tok:2"][aria-pressed="true"]')
    assert browser.switch_to.active_element.get_attribute("data-key") == "tok:2"


def test_an_unfolded_parent_stays_unfolded(browser, address: str) -> None:
    visit(browser, address, "?text=The+river+rose.&tok=2")
    carets = browser.find_elements(By.CSS_SELECTOR, '.hs-caret[aria-expanded="false"]')
    name = carets[0].get_attribute("data-toggle")
    carets[0].click()
    find(browser, f'.hs-caret[data-toggle="{name}"][aria-expanded="true"]')
    find(browser, f'button.hs-row[data-pick="f:{name}"]').click()
    wait_for_address(browser, f=name)
    find(browser, f'.hs-caret[data-toggle="{name}"][aria-expanded="true"]')


def test_scripts_in_a_text_stay_text(browser, address: str, shots: Path) -> None:
    visit(browser, address)
    box = find(browser, "#hs-text textarea")
    box.clear()
    box.send_keys(EVIL)
    find(browser, "button.primary", containing="Decompose").click()
    find(browser, ".hs-strip", containing="script")
    assert browser.execute_script("return window.hacked") is None
    shoot(browser, shots, "hostile")


def test_two_visitors_do_not_see_each_other(browser, address: str) -> None:
    visit(browser, address, "?text=The+river+rose.&tok=1")
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    visit(browser, address, "?text=A+dog+barked.&tok=2")
    other = browser.current_window_handle
    find(browser, 'button.hs-tok[data-pick="tok:3"]').click()
    wait_for_address(browser, tok="3")
    browser.switch_to.window(first)
    assert find(browser, ".hs-strip").text.startswith("<bos>The river")
    find(browser, 'button.hs-tok[data-pick="tok:2"]').click()
    wait_for_address(browser, text="The river rose.", tok="2")
    browser.switch_to.window(other)
    browser.close()
    browser.switch_to.window(first)


def test_stop_ends_the_writing_and_leaves_nothing(browser, address: str) -> None:
    client = Client(address, verbose=False)
    asked = ("The king", {"12": 1.0}, 8, 0.0, 0, "")
    before = client.predict(*asked, api_name="/steer")
    visit(browser, address)
    find(browser, '[data-pick="do:steer"]').click()
    find(browser, "#hs-generate").click()
    find(browser, "#hs-steered .hs-note", containing="KL")
    find(browser, "#hs-stop").click()
    browser.get("about:blank")
    assert client.predict(*asked, api_name="/steer") == before


def test_axe_finds_nothing_of_ours(browser, address: str) -> None:
    axe_core = pytest.importorskip("axe_core_python")
    visit(browser, address)
    script = (Path(axe_core.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    browser.execute_script(script)
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run('.hs-page').then(found => done(found.violations))"
    )
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []


def test_it_is_dark_where_the_reader_has_it_dark(browser, address: str, shots: Path) -> None:
    visit(browser, address, "?__theme=dark")
    colour = browser.execute_script(
        "return getComputedStyle(document.querySelector('.hs-pane')).backgroundColor"
    )
    assert max(map(int, colour.strip("rgba()").split(",")[:3])) < 60
    shoot(browser, shots, "dark")


def test_a_phone_shows_it_without_scrolling_sideways(phone, address: str, shots: Path) -> None:
    visit(phone, address)
    width = phone.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1] == 390
    shoot(phone, shots, "phone")
