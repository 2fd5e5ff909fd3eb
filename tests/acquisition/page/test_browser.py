"""The page as people use it: real clicks and keys in a real browser, on a run of the simulated microscope."""

from __future__ import annotations

import re

from playwright.sync_api import expect

LIVE = """\
name: a night that is watched
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 4 um, pixels: 64, dwell_time: 1 us}
steps:
  - name: watching
    series: {every: 1 s, for: 30 min}
"""


def number_of(page) -> int:
    return int(page.locator("#segments img").first.get_attribute("data-frame") or -1)


def test_the_last_night_is_shown_with_pictures_curves_and_events(site, visit):
    visitor = visit("of-bob")
    page = visitor.page
    expect(page.locator("#run h1")).to_have_text("a finished night")
    expect(page.locator("#run .badge")).to_have_text("✓ finished")
    expect(page.locator("#segments img")).to_have_count(4)
    page.wait_for_function(
        "[...document.querySelectorAll('#segments img, #heights')].every((one) => one.naturalWidth >= 32)"
    )
    assert page.locator("#heights").get_attribute("data-frame") == "2"
    page.locator("#surface").scroll_into_view_if_needed()
    expect(page.locator("#surface-note")).to_contain_text("10 × 10 µm")
    page.locator("#chart-figures").scroll_into_view_if_needed()
    expect(page.locator("#chart-figures .scatterlayer .trace").first).to_be_attached()
    expect(page.locator("#events tbody tr")).not_to_have_count(0)
    expect(page.get_by_role("button", name="Safe state")).to_have_count(0)  # observers watch
    assert visitor.origins == {site.page.url.rstrip("/")}
    assert visitor.complaints == []


def test_a_wrong_token_is_told_and_lets_nobody_in(site, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.address())
    page.fill("#token", "a guess")
    page.click("button")
    expect(page.get_by_role("alert")).to_contain_text("nobody has this token")
    page.goto(site.address("archive"))
    expect(page.locator("#token")).to_be_visible()
    context.close()


def test_a_recipe_is_checked_while_it_is_written(visit):
    page = visit("of-ada", "recipe").page
    expect(page.locator(".verdict.good")).to_be_visible()
    page.fill("#recipe", LIVE.replace("pixels: 64", "pixel: 64").replace("30 min", "30 parsecs"))
    expect(page.locator(".verdict.bad")).to_have_text("✕ 3 problems")
    problem = page.locator("ol.problems li").filter(has_text="imaging.pixel: 'pixel' is not a key here")
    expect(problem).to_contain_text("2:")
    expect(page.locator("#book")).to_be_disabled()
    problem.get_by_role("button").click()
    assert page.evaluate("document.activeElement.id") == "recipe"
    assert (
        page.evaluate("const e = document.activeElement; e.value.slice(0, e.selectionStart).split('\\n').length") == 2
    )
    page.fill("#recipe", LIVE)
    expect(page.locator(".verdict.good")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text("30 min")
    expect(page.locator("#verdict")).to_contain_text("kC/m²")
    expect(page.locator("ol.timeline li")).to_have_count(2)


def test_a_run_is_booked_watched_paused_resumed_and_stopped(site, visit):
    before = len(site.desk.asked)
    visitor = visit("of-ada", "recipe")
    page = visitor.page
    expect(page.locator(".verdict.good")).to_be_visible()
    page.fill("#recipe", LIVE)
    expect(page.locator("ol.timeline li")).to_have_count(2)
    page.click("#book")
    expect(page.locator("#answer")).to_contain_text("✓ booked")
    page.goto(site.address())
    expect(page.locator("#run .badge")).to_have_text("▶ running", timeout=30_000)
    expect(page.locator("#run")).to_contain_text("left")
    page.wait_for_selector("#segments img")
    first = number_of(page)
    page.wait_for_function(f"Number(document.querySelector('#segments img').dataset.frame) > {first}")
    page.click("#pause")
    expect(page.locator("#run .badge")).to_have_text("❚❚ paused")
    expect(page.locator("#pause")).to_be_disabled()
    page.click("#resume")
    expect(page.locator("#run .badge")).to_have_text("▶ running")
    page.click("#stop")
    page.click("#ask-no")
    expect(page.locator("#run .badge")).to_have_text("▶ running")
    page.click("#stop")
    page.click("#ask-yes")
    expect(page.locator("#run .badge")).to_contain_text("stopped by a person")
    expect(page.locator("#run")).to_contain_text("stopped by Ada")
    asked = [name for _, name, _ in site.desk.asked[before:] if not name.endswith("control")]
    assert asked == ["book", "pause", "resume", "stop"]
    assert visitor.complaints == []


def test_the_safe_state_asks_once(site, visit):
    page = visit().page
    before = len([one for one in site.desk.asked if one[1] == "safe"])
    page.click("#safe")
    expect(page.get_by_role("alertdialog")).to_contain_text("Bring the instrument to its safe state?")
    page.keyboard.press("Escape")
    expect(page.get_by_role("alertdialog")).to_have_count(0)
    page.click("#safe")
    page.click("#ask-yes")
    expect(page.locator("#answer")).to_contain_text("safe state")
    assert len([one for one in site.desk.asked if one[1] == "safe"]) == before + 1


def test_the_calendar_books_and_removes(site, visit):
    page = visit("of-ada", "recipe").page
    expect(page.locator(".verdict.good")).to_be_visible()
    page.select_option("#when", "at")
    page.fill("#at", "03:33")
    page.click("#book")
    expect(page.locator("#answer")).to_contain_text("✓ booked")
    page.goto(site.address("calendar"))
    row = page.locator("#bookings tbody tr")
    expect(row).to_contain_text("recipe.yaml")
    expect(row).to_contain_text("03:33")
    row.get_by_role("button", name=re.compile("Remove")).click()
    page.click("#ask-yes")
    expect(page.locator("#bookings")).to_contain_text("Nothing is booked")


def test_an_alarm_is_shown_on_every_page_until_it_is_put_aside(site, visit, clock):
    page = visit("of-bob", "archive").page
    expect(page.get_by_role("link", name=f"Report of {site.finished}")).to_be_visible()
    site.log.event(None, clock.now(), "error", "guard", "the guard could not reach <b>the heater</b>")
    alarm = page.get_by_role("alert")
    expect(alarm).to_contain_text("the guard could not reach <b>the heater</b>")
    alarm.get_by_role("button", name=re.compile("Put aside")).click()
    expect(alarm).not_to_contain_text("guard")


def test_the_keyboard_reaches_everything(visit):
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == "surface":
            break
    assert "safe" in reached
    assert reached[-1] == "surface"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_phone_shows_all_of_it(site, visit):
    page = visit("of-ada", width=390).page
    for path in ("", "recipe", "calendar", "archive"):
        page.goto(site.address(path))
        page.wait_for_selector(".page h1")
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_the_archive_opens_a_report_that_asks_nobody(site, visit):
    visitor = visit("of-bob", "archive")
    with visitor.page.expect_popup() as opened:
        visitor.page.get_by_role("link", name=f"Report of {site.finished}").click()
    expect(opened.value.locator("h1")).to_have_text("a finished night")
    answer = visitor.page.request.get(site.address(f"report/{site.finished}"))
    assert "default-src 'none'" in answer.headers["content-security-policy"]
