"""The result of a job, sent to the address that came with it: until it says 200, and three times at most [DOC]."""

import aiohttp

from .events import EventLog
from .job import Job
from .settings import Settings


async def deliver(session: aiohttp.ClientSession, job: Job, settings: Settings, log: EventLog) -> None:
    for attempt in range(1 + settings.webhook_retries):
        if attempt:
            await log.clock.sleep(settings.webhook_pause)
        try:
            async with session.post(job.webhook, json=job.view(log.clock.now())) as response:
                log.note("webhook", job_id=job.id, detail=str(response.status))
                if response.status == 200:
                    return
        except aiohttp.ClientError as error:
            log.note("webhook", job_id=job.id, detail=type(error).__name__)
