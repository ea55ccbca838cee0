"""A gateway on a real socket with played models and a real database, and a browser that looks at it.

The browser is Debian's Chromium. What a page must never do is noted for every test: errors in the console, requests to
other hosts, violations of the policy.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from playwright.async_api import Browser, BrowserContext, Page, Playwright, async_playwright

from local_gateway.accounts.auth import Authenticator
from local_gateway.accounts.keys import Key, Keyring, new_key
from local_gateway.accounts.limiter import Limiter
from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.backends.base import Backend, Health
from local_gateway.config.settings import GatewaySettings
from local_gateway.config.settings import Target as TargetSettings
from local_gateway.gateway import Gateway
from local_gateway.server.app import create_app
from local_gateway.storage.store import Store
from local_gateway.storage.sync import Snapshot
from local_gateway.storage.writer import StoreWriter
from tests.web.played_model import PlayedModel

BROWSERS = [Path("/usr/bin/chromium"), Path("/usr/bin/google-chrome")]  # Debian's, and that of GitHub's runners
CHROMIUM = next((path for path in BROWSERS if path.exists()), BROWSERS[0])
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
PATIENCE = 15_000  # ms until a test that waits fails
SCREENS: dict[str, dict[str, Any]] = {
    "desktop-light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone-light": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
    "phone-dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
    "small": {"viewport": {"width": 320, "height": 640}, "color_scheme": "light"},
}
ANSWER = """The capital of France is **Paris**, and has been since 987, with pauses.

1. It lies on the *Seine*.
2. About 2.1 million people live in it.

```python
print("Bonjour")
```
"""
MODELS: dict[str, Any] = {
    "llama": {
        "description": "Llama 3.1 8B on our own GPUs",
        "context_length": 16384,
        "cold_start": {"after": "1h", "use": "gpt-4o-mini"},
        "targets": [
            {
                "type": "runpod_queue", "name": "runpod", "endpoint_id": "k3x9", "api_key": "rp",
                "price": {"gpu_second": 0.00034},
            },
            {"type": "openai", "name": "office", "base_url": "http://10.0.0.5:8001/v1", "priority": 2},
        ],
    },
    "gpt-4o-mini": {
        "targets": [{"type": "openai", "name": "openai", "price": {"prompt": 0.15, "cached": 0.075, "completion": 0.6}}]
    },
    "qwen-coder": {"coalesce": "team", "targets": [{"type": "openai", "name": "office-coder"}]},
}  # fmt: skip


@dataclass
class Stage:
    gateway: Gateway
    models: dict[str, PlayedModel]  # by the names of their targets
    store: Store
    url: str
    made: list[Key]  # here, and so perhaps not yet in what the gateway has read
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def add_key(self, name: str, **limits: Any) -> tuple[str, Key]:
        """A key that the gateway knows at once."""
        secret, key = new_key(name, created=time.time() - 40 * 86400, **limits)
        self.store.add_key(key)
        self.made.append(key)
        assert self.gateway.auth._keyring is not None
        self.gateway.auth.update(Keyring([*self.gateway.auth._keyring, key]))
        return secret, key


@contextlib.asynccontextmanager
async def staged(folder: Path, **more: Any) -> AsyncIterator[Stage]:
    """A gateway that listens; `more` as in gateway.yaml."""
    url = f"sqlite:///{folder / 'gateway.db'}"
    document = {"models": MODELS, "database": {"url": url}, "timeouts": {"commit": "200ms", "probe": "200ms"}, **more}
    settings = GatewaySettings.model_validate(document)
    models = {
        "runpod": PlayedModel(ANSWER, Health(True, "2 workers running, 1 idle", 2, 1, 3), pace=0.004),
        "office": PlayedModel(ANSWER, Health(True, "answers")),
        "openai": PlayedModel("Paris. It has been the capital since 987.", Health(True, "takes our key")),
        "office-coder": PlayedModel(
            ANSWER, Health(False, "cannot be reached: connection refused"), reasoning="They mean France."
        ),
    }  # fmt: skip
    waiting = iter(models.values())

    def make_backend(target: TargetSettings) -> Backend:
        return next(waiting)

    store = Store(url)
    auth = Authenticator(require_keys=False, clock=time.time)
    limiter = Limiter(time.time)
    writer = StoreWriter(lambda create: Store(url, create=create), keep_usage=settings.database.keep_usage)
    known = asyncio.Event()
    made: list[Key] = []

    def publish(snapshot: Snapshot) -> None:
        known_ids = {key.id for key in snapshot.keyring}
        auth.update(Keyring([*snapshot.keyring, *(key for key in made if key.id not in known_ids)]))
        limiter.refresh(snapshot.spends, snapshot.stored)
        known.set()

    writer.start(publish)
    await known.wait()
    gateway = Gateway(settings, auth, limiter, writer, make_backend=make_backend)
    config = uvicorn.Config(create_app(gateway), port=0, log_config=None, access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # older versions of uvicorn have it
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        stage = Stage(gateway, models, store, f"http://127.0.0.1:{port}", made)
        yield stage
        for model in models.values():
            model.go_on.set()
        for task in stage.tasks:
            task.cancel()
    finally:
        gateway.is_stopping.set()
        server.should_exit = server.force_exit = True
        await serving
        await gateway.aclose()
        await asyncio.to_thread(writer.close, 10.0)
        store.close()


def fill(store: Store, keys: list[Key], days: int = 30) -> None:
    """Usage of some weeks, the same every time."""
    rng = random.Random(15)
    now = time.time()
    flows = (("llama", "runpod", 0.0011), ("gpt-4o-mini", "openai", 0.0004), ("qwen-coder", "office-coder", 0.0))
    records: list[UsageRecord] = []
    for day in range(days):
        weekday = time.gmtime(now - day * 86400).tm_wday
        for _ in range(rng.randint(3, 9) if weekday >= 5 else rng.randint(14, 34)):
            model, target, price = rng.choices(flows, (6, 3, 2))[0]
            key = rng.choices(keys, range(len(keys), 0, -1))[0]
            prompt, completion = int(rng.lognormvariate(6.2, 0.8)), int(rng.lognormvariate(5.2, 0.7))
            is_failed = rng.random() < 0.03
            records.append(
                UsageRecord(
                    time=now - day * 86400 - rng.random() * 3600, request_id=f"req_{len(records)}", key_id=key.id,
                    key_name=key.name, alias=model, model=model, target="" if is_failed else target,
                    endpoint="k3x9" if target == "runpod" and not is_failed else "", path="/chat/completions",
                    is_stream=True, status=502 if is_failed else 200,
                    outcome="target_error" if is_failed else "ok", num_prompt_tokens=prompt,
                    num_cached_tokens=prompt // 3, num_completion_tokens=0 if is_failed else completion,
                    cost=0.0 if is_failed else completion * price / 100, first_token_seconds=rng.uniform(0.1, 0.9),
                    total_seconds=rng.uniform(1, 9), num_attempts=1,
                )
            )  # fmt: skip
    store.add(records)


def fill_workers(store: Store, days: int = 30) -> None:
    """The runs of the workers that made fill's answers, the same every time: four a day."""
    rng = random.Random(15)
    now = time.time()
    store.keep_runs(
        [
            WorkerRun(
                endpoint="k3x9", worker_id=f"worker{number % 3}", started=now - (number + 1) * 86400 / 4,
                seconds=rng.lognormvariate(4.2, 0.5), start_seconds=rng.uniform(9, 24), price=0.00034,
            )
            for number in range(4 * days)
        ]
    )  # fmt: skip


@dataclass
class Looker:
    """A browser's tab, and what it must not do."""

    page: Page
    context: BrowserContext
    wrongs: list[str] = field(default_factory=list)

    async def open(self, url: str, page: str = "") -> None:
        await self.page.goto(f"{url}/{f'#/{page}' if page else ''}")

    async def sign_in(self, url: str, secret: str, page: str = "") -> None:
        await self.open(url, page)
        await self.page.get_by_label("Key").fill(secret)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.locator("nav").first.wait_for()


@contextlib.asynccontextmanager
async def looking(browser: Browser, screen: str, url: str, **options: Any) -> AsyncIterator[Looker]:
    """A fresh tab. Afterwards it must have done nothing wrong."""
    context = await browser.new_context(**SCREENS[screen], locale="en-GB", reduced_motion="reduce", **options)
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    looker = Looker(page, context)
    expected = ("401 (Unauthorized)", "429 (Too Many", "404 (Not Found)", "400 (Bad Request)", "499 (")

    def note_console(message: Any) -> None:
        if message.type in ("error", "warning") and not any(each in message.text for each in expected):
            looker.wrongs.append(f"console: {message.text}")

    def note_request(request: Any) -> None:
        if not request.url.startswith((f"{url}/", "blob:", "data:")):
            looker.wrongs.append(f"request: {request.url}")

    page.on("console", note_console)
    page.on("request", note_request)
    page.on("pageerror", lambda error: looker.wrongs.append(f"error: {error}"))
    await page.add_init_script(
        "document.addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective))"
    )
    try:
        yield looker
    finally:
        await context.close()
    assert not looker.wrongs, "\n".join(looker.wrongs)


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await launch(playwright)
        try:
            yield browser
        finally:
            await browser.close()


async def launch(playwright: Playwright) -> Browser:
    return await playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
