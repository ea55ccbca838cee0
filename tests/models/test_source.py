"""What MODEL may say, and which of a repository's files it means."""

from pathlib import Path

import pytest

from handler.errors import ConfigError
from handler.models.source import DEMO, HubModel, LocalFile, Source, WebFile, choices, parse, parts_of, quant_of

SPLIT = [f"m-Q8_0-0000{index}-of-00003.gguf" for index in (1, 2, 3)]


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("demo", DEMO),
        ("/models/a.gguf", LocalFile(Path("/models/a.gguf"))),
        ("./demo", LocalFile(Path("demo"))),
        ("~/a.gguf", LocalFile(Path("~/a.gguf"))),
        ("a.gguf", LocalFile(Path("a.gguf"))),
        ("models/a.gguf", LocalFile(Path("models/a.gguf"))),
        ("/m/a-00002-of-00002.gguf", LocalFile(Path("/m/a-00001-of-00002.gguf"))),
        ("org/name", HubModel("org/name")),
        ("org/name@v1.0", HubModel("org/name", "v1.0")),
        ("org/name:q4_k_m", HubModel("org/name", quant="Q4_K_M")),
        ("org/name:UD-IQ2_XXS@refs/pr/3", HubModel("org/name", "refs/pr/3", quant="UD-IQ2_XXS")),
        ("org/name/a.gguf", HubModel("org/name", file="a.gguf")),
        ("org/name/sub/a-00002-of-00003.gguf@v1", HubModel("org/name", "v1", file="sub/a-00001-of-00003.gguf")),
        ("https://host.test/a.gguf?x=1", WebFile("https://host.test/a.gguf?x=1")),
        ("https://host.test/a-00003-of-00003.gguf?x=1", WebFile("https://host.test/a-00001-of-00003.gguf?x=1")),
        ("https://huggingface.co/org/name", HubModel("org/name")),
        ("https://huggingface.co/org/name/tree/v1", HubModel("org/name", "v1")),
        ("https://huggingface.co/org/name/blob/main/a.gguf", HubModel("org/name", file="a.gguf")),
        (
            "https://hf.co/org/name/resolve/refs%2Fpr%2F3/a%20b.gguf?download=true",
            HubModel("org/name", "refs/pr/3", file="a b.gguf"),
        ),
    ],
)
def test_model_may_be(model: str, source: Source) -> None:
    """Everything MODEL may say, and what it means."""
    assert parse(model) == source


@pytest.mark.parametrize(
    "model", ["llama", "org/name:", "org/name:Q4_K_M@", "org/name/../../a.gguf", "org/name@../main", "s3://a/b.gguf"]
)
def test_model_may_not_be(model: str) -> None:
    """Everything else is a wrong setting, and the message names it."""
    with pytest.raises(ConfigError, match=r"^MODEL "):
        parse(model)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Llama-3.Q4_K_S.gguf", "Q4_K_S"),
        ("mistral_7b_Q4_K.gguf", "Q4_K"),
        ("Q4_K_M/m-00001-of-00003.gguf", "Q4_K_M"),
        ("m-UD-IQ2_XXS-00001-of-00002.gguf", "UD-IQ2_XXS"),
        ("m.i1-IQ3_M.gguf", "IQ3_M"),
        ("m-f16-Q6_K.gguf", "Q6_K"),
        ("m-BF16.gguf", "BF16"),
        ("m-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("m-TQ1_0.gguf", "TQ1_0"),
        ("Qwen3-8B.gguf", ""),
    ],
)
def test_quantisation_is_read_from_the_name(name: str, quant: str) -> None:
    """Publishers write quantisations in many ways."""
    assert quant_of(name) == quant


REPO = [
    "README.md",
    "imatrix_unsloth.gguf",
    "m-Q4_K.gguf",
    "m-Q4_K_M.gguf",
    "m-Q4_K_S.gguf",
    "mmproj-Q4_K_M.gguf",
    "m-mmproj-Q4_K.gguf",
    *SPLIT,
]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (HubModel("o/n", quant="Q4_K"), ["m-Q4_K.gguf"]),
        (HubModel("o/n", quant="Q4_K_M"), ["m-Q4_K_M.gguf"]),
        (HubModel("o/n", quant="Q8_0"), [SPLIT[0]]),
        (HubModel("o/n", quant="Q5_K"), []),
        (HubModel("o/n"), ["m-Q4_K_M.gguf"]),
        (HubModel("o/n", file="M-q4_k_s.gguf"), ["m-Q4_K_S.gguf"]),
        (HubModel("o/n", file="mmproj-Q4_K_M.gguf"), ["mmproj-Q4_K_M.gguf"]),
        (HubModel("o/n", file=SPLIT[0]), [SPLIT[0]]),
    ],
    ids=str,
)
def test_choice_among_a_repositorys_files(source: HubModel, names: list[str]) -> None:
    """A quantisation means exactly its own, a split model is one, and only by name is a file that is no model meant."""
    assert choices(REPO, source) == names


def test_only_model_needs_no_name() -> None:
    """A repository with one model is enough to name it, whatever its quantisation."""
    assert choices(["m-Q2_K.gguf", "mmproj.gguf"], HubModel("o/n")) == ["m-Q2_K.gguf"]


def test_parts_are_in_order() -> None:
    """A split model's files follow from the name of any."""
    assert parts_of(SPLIT[1]) == SPLIT
    assert parts_of("m.gguf") == ["m.gguf"]


def test_two_urls_never_share_a_file() -> None:
    """Files of one name from two addresses are kept apart, even if only the query differs."""
    urls = ["https://a.test/m.gguf", "https://b.test/m.gguf", "https://a.test/m.gguf?v=2"]
    paths = {WebFile(url).path for url in urls}
    assert len(paths) == 3
    assert {path.name for path in paths} == {"m.gguf"}
