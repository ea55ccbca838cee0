"""The pictures of docs/dashboard.md: `python -m tests.web.screenshots docs/images`."""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from tests.web.stage import Looker, Stage, browsing, fill, fill_workers, looking, staged

PICTURES = {
    "desktop-light": ("now", "targets", "usage", "playground", "keys"),
    "desktop-dark": ("now", "targets", "usage", "playground", "keys"),
    "phone-light": ("keys",),
    "phone-dark": ("now", "usage"),
}


async def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        async with staged(Path(scratch)) as stage, browsing() as browser:
            secret = await populate(stage)
            for screen, pages in PICTURES.items():
                async with looking(browser, screen, stage.url) as looker:
                    await looker.sign_in(stage.url, secret)
                    for page in pages:
                        await looker.open(stage.url, page)
                        await prepare(looker, page, screen)
                        await looker.page.screenshot(path=folder / f"{page}-{screen}.png")
                        if page == "usage" and screen.startswith("desktop"):
                            workers = looker.page.get_by_role("region", name="RunPod's workers")
                            await workers.screenshot(path=folder / f"workers-{screen}.png")


async def populate(stage: Stage) -> str:
    """Keys, some weeks of usage, and requests that run."""
    secret, admin = stage.add_key("ada", is_admin=True)
    names: dict[str, dict[str, Any]] = {
        "editor plugin": {"models": ("qwen-coder",), "max_rpm": 120},
        "chat page": {"budget": 25.0, "max_concurrency": 8},
        "batch": {"models": ("llama", "gpt-*"), "budget": 2.0, "period": "day", "max_tpm": 200000},
    }
    others = [stage.add_key(name, **limits) for name, limits in names.items()]
    fill(stage.store, [admin, *(key for _, key in others)])
    fill_workers(stage.store)

    async def ask(key: str, model: str, text: str) -> None:
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
        headers = {"authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{stage.url}/v1/chat/completions", json=body, headers=headers) as response,
        ):
            await response.read()

    keys = [key for key, _ in others]
    for model in ("llama", "gpt-4o-mini", "llama", "qwen-coder"):
        await ask(keys[1], model, "hello")
    for key, model, text in (
        (keys[1], "llama", "hold on"), (keys[0], "qwen-coder", "hold on"), (keys[2], "gpt-4o-mini", "hold on"),
        (secret, "llama", "start, please"),
    ):  # fmt: skip
        stage.tasks.append(asyncio.create_task(ask(key, model, text)))
    stage.models["runpod"].health_now = stage.models["runpod"].health_now._replace(
        num_ready_workers=0,
        num_starting_workers=1,
        detail="no worker ready, 1 starting, 1 job in the queue",
        num_queued=1,
    )
    await asyncio.sleep(1.5)
    return secret


async def prepare(looker: Looker, page: str, screen: str) -> None:
    await looker.page.get_by_role("heading", level=1).wait_for()
    if page == "playground":
        if screen.startswith("desktop"):
            await looker.page.get_by_role("button", name="Two side by side").click()
        await looker.page.get_by_role("textbox", name="Message").fill("What is the capital of France?")
        await looker.page.get_by_role("textbox", name="Message").press("Enter")
        await looker.page.get_by_text("first token").first.wait_for()
    await looker.page.wait_for_timeout(900)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
