"""Images in chats: what a request may hold, where they stand in the prompt, and what a URL can reach."""

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handler.api.anthropic import Messages
from handler.api.chat import ChatCompletions
from handler.api.media_parts import MAX_MEDIA, MediaKind
from handler.api.media_reader import MAX_READING, MediaReader
from handler.api.model_names import ServedNames
from handler.chat.template import model_template
from handler.engine.engine import Engine
from handler.engine.media_encoder import MediaEncoder
from handler.engine.scheduler import Limits
from handler.errors import InvalidRequestError, QueueFullError, RequestError
from tests.engine.fake_projector import FakeProjector
from tests.engine.fakes import FakeRunner, create_engine
from tests.images import data_url, png
from tests.media.test_fetch import PUBLIC, Internet, answer, redirect
from tests.media.test_image_header import JPEG, WEBP_LOSSY
from tests.tiny_hearing import wav

PROMPT = "{% for message in messages %}{{ message.role }}: {{ message.content }};{% endfor %}>"
CAT, DOG = png(1), png(2)
MAX_BYTES = 10_000


class Seeing:
    """A chat route whose model sees, and the prompts that it was given."""

    def __init__(self, internet: Internet | None, template: str, *, hears: bool = False) -> None:
        self.projector = FakeProjector()
        kinds: list[MediaKind] = ["image", "sound"] if hears else ["image"]
        self.engine: Engine = create_engine(
            FakeRunner(num_cells=100_000), Limits(4, 4096, 4096), encoder=MediaEncoder(self.projector)
        )
        internet = internet or Internet([])
        self.reader = MediaReader(
            kinds,
            max_bytes=MAX_BYTES,
            fetches_urls=bool(internet.answers),
            resolve=internet.resolve,
            connect=internet.connect,
        )
        self.chat = ChatCompletions(
            self.engine,
            model_template(template, bos_token="", eos_token=""),
            ServedNames(("llama",)),
            media=self.reader,
        )

    async def count(self, *content: Any, role: str = "user") -> int:
        return await self.chat.num_prompt_tokens({"messages": [{"role": role, "content": list(content)}]})


@contextmanager
def seeing(internet: Internet | None = None, template: str = PROMPT, *, hears: bool = False) -> Iterator[Seeing]:
    worker = Seeing(internet, template, hears=hears)
    try:
        yield worker
    finally:
        worker.engine.close()


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


async def test_answer() -> None:
    """A chat with an image is answered, and its image counts in the usage with as many tokens as it takes."""
    with seeing() as worker:
        content = [text("What is it?"), image(data_url(CAT))]
        answer = await worker.chat.create({"messages": [{"role": "user", "content": content}], "max_tokens": 4})

    assert isinstance(answer, dict)
    assert len(answer["choices"][0]["message"]["content"]) == 4
    assert answer["usage"]["prompt_tokens"] == len("user: What is it?[];>") + len(CAT)
    assert worker.projector.encoded == [CAT]


@pytest.mark.parametrize(
    ("content", "rendered"),
    [
        ([text("a"), text("b")], "user: a\nb;>"),
        ([text("a"), image(data_url(CAT)), text("b"), text("c")], "user: a[]b\nc;>"),
        ([image(data_url(CAT)), image(data_url(DOG))], "user: [][];>"),
        ([{"type": "image_url", "image_url": data_url(CAT)}], "user: [];>"),
    ],
)
async def test_images_stand_where_they_were_sent(content: list[Any], rendered: str) -> None:
    """Among the texts of their message, without line breaks around them; texts have lines of their own."""
    with seeing() as worker:
        num_tokens = await worker.count(*content)
        sizes = map(len, worker.projector.encoded)
        assert num_tokens == len(rendered) + sum(sizes)


async def test_images_in_several_messages() -> None:
    """In their order, those of tools too."""
    with seeing() as worker:
        conversation = [
            {"role": "user", "content": [text("draw"), image(data_url(CAT))]},
            {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "d"}}]},
            {"role": "tool", "tool_call_id": "a", "content": [image(data_url(DOG))]},
            {"role": "user", "content": "and?"},
        ]
        await worker.chat.num_prompt_tokens({"messages": conversation})

    assert worker.projector.encoded == [CAT, DOG]


async def test_anthropic_s_images() -> None:
    """In Messages they are blocks, of the user's and in what tools have found, and are counted alike."""
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data_url(CAT)[22:]}}
    use = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    found = {"type": "tool_result", "tool_use_id": "a", "content": [{**block}, text("a cat")]}
    conversation = [
        {"role": "user", "content": [block, text("What is it?")]},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [found]},
    ]
    with seeing() as worker:
        body = {"messages": conversation, "max_tokens": 4, "model": "llama"}
        answer = await Messages(worker.chat).create(body)
        count = await Messages(worker.chat).count_tokens(body)

    assert isinstance(answer, dict)
    assert answer["usage"]["input_tokens"] == count["input_tokens"] > 2 * len(CAT)
    assert worker.projector.encoded == [CAT]


async def test_a_template_that_leaves_images_out() -> None:
    """Is said to, instead of an answer to another question."""
    template = "{% for message in messages[1:] %}{{ message.content }}{% endfor %}>"
    with seeing(template=template) as worker, pytest.raises(RequestError, match="does not show all images"):
        await worker.count(image(data_url(CAT)))


async def test_a_template_that_wants_parts() -> None:
    """It gets the mark of an image within a text, and writes nothing of its own for it: the projector does."""
    template = (
        "{% for message in messages %}{% for part in message.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}{% endfor %}{% endfor %}>"
    )
    with seeing(template=template) as worker:
        assert await worker.count(text("look"), image(data_url(CAT))) == len("look[]>") + len(CAT)


async def test_sounds() -> None:
    """Stand among the texts of a message too, where the model hears; their data may be bare base64 or a data: URL."""
    sound = wav(1, 0.2, 4_000)
    bare = base64.b64encode(sound).decode()
    parts = [
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        for data in (bare, f"data:audio/wav;base64,{bare}")
    ]
    with seeing(hears=True) as worker:
        num_tokens = await worker.count(text("hear"), *parts, image(data_url(CAT)))
        assert num_tokens == len("user: hear[][][];>") + 2 * len(sound) + len(CAT)
        with pytest.raises(InvalidRequestError, match="not a WAV"):
            await worker.count({"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}})
    with seeing() as worker, pytest.raises(InvalidRequestError, match=r'image_url only: .* \(got "input_audio"\)'):
        await worker.count(*parts)

    assert worker.projector.encoded == []


async def test_words_are_no_images() -> None:
    """What looks like the mark of an image in a message stays text."""
    with seeing() as worker:
        words = "[0123456789abcdef0123456789abcdef 0]<__media__>"
        assert await worker.count(text(words), image(data_url(CAT))) == len("user: [];>") + len(words) + len(CAT)


async def test_a_model_that_sees_nothing() -> None:
    """Refuses images as it always did, and names the message."""
    engine = create_engine(FakeRunner())
    chat = ChatCompletions(engine, model_template(PROMPT, bos_token="", eos_token=""), ServedNames(("llama",)))
    with pytest.raises(InvalidRequestError, match='this model reads no others \\(got "image_url"\\)') as refusal:
        await chat.create({"messages": [{"role": "user", "content": [image(data_url(CAT))]}]})
    engine.close()

    assert refusal.value.param == "messages[0].content"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("data:image/png;base64,!!", "base64 is damaged"),
        ("data:image/png,abc", "has to be base64"),
        (data_url(b"GIF"), "not a whole PNG, JPEG, GIF"),
        (data_url(b"%PDF-1.7" + bytes(100)), "not a whole PNG, JPEG, GIF"),
        (data_url(WEBP_LOSSY), "is webp; png, jpeg and gif can be read"),
        (data_url(png(1, 1, 1)[:16] + b"\xff" * 8), "pixels"),
        (data_url(bytes(MAX_BYTES + 1)), f"1 to {MAX_BYTES} bytes"),
        ("https://good.test/cat.png", "fetches no URLs"),
        ("file:///etc/passwd", "fetches no URLs"),
        ("", "fetches no URLs"),
    ],
)
async def test_refused(url: str, why: str) -> None:
    """A 400 says why, and which part it is about."""
    with seeing() as worker, pytest.raises(InvalidRequestError, match=why) as refusal:
        await worker.count(text("a"), image(url))

    assert refusal.value.param == "messages[0].content[1]"


async def test_too_many_bytes_together() -> None:
    """The limit is for all images of a request: so much is in memory."""
    with seeing() as worker:
        one = data_url(CAT)
        assert len(CAT) > MAX_BYTES / 4
        with pytest.raises(InvalidRequestError, match="bytes") as refusal:
            await worker.count(*(4 * [image(one)]))

    assert refusal.value.param == "messages[0].content[3]"


async def test_too_many_images() -> None:
    """Are refused before any is read."""
    with seeing() as worker, pytest.raises(InvalidRequestError, match=f"at most {MAX_MEDIA} images and sounds"):
        await worker.count(*((MAX_MEDIA + 1) * [image("data:")]))


async def test_an_image_from_the_internet() -> None:
    """Is fetched where the worker may, over redirects too, and JPEG does as well."""
    internet = Internet([redirect("http://other.test/dog"), answer(JPEG)])
    with seeing(internet) as worker:
        await worker.count(image("http://good.test/cat"))

    assert worker.projector.encoded == [JPEG]
    assert [address for address, _ in internet.connected] == [PUBLIC, "2606:4700::1111"]


INSIDE = [
    "http://127.0.0.1/",
    "http://127.0.0.1:80/",
    "https://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[fe80::1%25eth0]/",
    "http://0.0.0.0/",
    "http://0/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://127.0.0.1./",
    "http://169.254.169.254/latest/meta-data/",
    "http://inside.test/",
    "http://inside.test./",
    "http://both.test/",
    "http://mapped.test/",
    "http://unknown.test/",
    "http://empty.test/",
    "http://localhost/",
    "http://user:secret@good.test/",
    "http://good.test@127.0.0.1/",
    "http://127.0.0.1\\@good.test/",
    "http://good.test:8001/",
    "http://good.test\t/",
    "http:///etc/passwd",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://good.test/",
    "gopher://good.test/",
    "unix:///run/docker.sock",
    "//127.0.0.1/",
    "http://ⓛocalhost/",
    "http://\uff11\uff12\uff17.0.0.1/",
]


@pytest.mark.parametrize("url", INSIDE)
async def test_no_url_leads_inside(url: str) -> None:
    """Whatever the way an address of this machine or its network is written: nothing is connected to."""
    internet = Internet([answer(CAT)])
    internet.names |= {
        "0.0.0.0": ["0.0.0.0"],
        "localhost": ["127.0.0.1", "::1"],
        "64:ff9b::7f00:1": ["64:ff9b::7f00:1"],
    }
    for address in ("::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1"):
        internet.names[address] = [address]
    with seeing(internet) as worker, pytest.raises(InvalidRequestError) as refusal:
        await worker.count(image(url))

    assert internet.connected == []
    assert "127.0.0.1" not in str(refusal.value)


@pytest.mark.parametrize("url", [url for url in INSIDE if url.isascii() and url.isprintable()])
async def test_no_redirect_leads_inside(url: str) -> None:
    """A public server that sends the worker there: the first connection is the only one."""
    internet = Internet([redirect(url), b""])
    internet.names |= {"0.0.0.0": ["0.0.0.0"], "localhost": ["127.0.0.1", "::1"]}
    with seeing(internet) as worker, pytest.raises(InvalidRequestError):
        await worker.count(image("http://good.test/"))

    assert {address for address, _ in internet.connected} == {PUBLIC}


async def test_the_name_that_was_checked_is_connected_to() -> None:
    """A name that answers otherwise the second time changes nothing: it is asked once, and its address is used."""
    internet = Internet([answer(CAT)])
    with seeing(internet) as worker:
        await worker.count(image("http://good.test/"))

    assert internet.resolved == ["good.test"]
    assert internet.connected == [(PUBLIC, 80)]


async def test_too_many_requests_wait_for_images() -> None:
    """One more is refused at once."""
    internet = Internet([None])
    with seeing(internet) as worker:
        worker.reader._num_reading = MAX_READING
        with pytest.raises(QueueFullError):
            await worker.count(image("http://good.test/"))
        worker.reader._num_reading = 0


async def test_the_order_of_refusals() -> None:
    """A request that is wrong for other reasons fetches nothing."""
    internet = Internet([answer(CAT)])
    with seeing(internet) as worker:
        body = {"messages": [{"role": "user", "content": [image("http://good.test/")]}], "temperature": 9}
        with pytest.raises(InvalidRequestError, match="temperature"):
            await worker.chat.create(body)
    await asyncio.sleep(0)

    assert internet.resolved == []
