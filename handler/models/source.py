"""What MODEL means, decided without a look at any disk or network.

    demo                                 -> HubModel, one certain file
    /a/path.gguf  ./path.gguf  name.gguf -> LocalFile
    org/name  org/name:Q4_K_M            -> HubModel, chosen by quantisation
    org/name/some/file.gguf              -> HubModel, one certain file
    ...@revision                         -> of that branch, tag or commit
    https://host/file.gguf?signature     -> WebFile
    https://huggingface.co/org/name/...  -> HubModel: the page's address serves as well as the file's

A model may be split into parts, `NAME-00001-of-00003.gguf` and so on; here the first part stands for the model.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from handler.errors import ConfigError

DEFAULT_QUANT = "Q4_K_M"  # where MODEL names a repository only, and the repository has it
DEFAULT_REVISION = "main"

_REPO = r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)"
_FILE = r"(?P<file>[^@:]+\.gguf)"
_HUB_MODEL = re.compile(rf"{_REPO}(?:/{_FILE}|:(?P<quant>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?")
_HUB_PAGE = re.compile(rf"/{_REPO}(?:/(?:resolve|blob|raw|tree)/(?P<revision>[^/]+)(?:/{_FILE})?)?/?")
_HUB_HOSTS = ("huggingface.co", "hf.co")

_PART = re.compile(r"-\d{5}-of-(?!00000)(\d{5})(?=\.gguf$)", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![A-Z0-9])((?:UD-)?(?:(?:I?Q|TQ|I)\d+(?:_[A-Z0-9]+)*|(?:MX|NV)FP4(?:_MOE)?|BF16|FP?16|FP?32))(?![A-Z0-9_])"
)


@dataclass(frozen=True)
class LocalFile:
    path: Path


@dataclass(frozen=True)
class HubModel:
    """A model in a repository on Hugging Face: the named file, else by quantisation, else what `choices` prefers."""

    repo: str
    revision: str = DEFAULT_REVISION
    file: str = ""
    quant: str = ""

    @property
    def directory(self) -> Path:
        """Of the repository's files, below a directory of models."""
        return Path(self.repo) / self.revision


@dataclass(frozen=True)
class WebFile:
    url: str = field(repr=False)  # its query may be a signature

    @property
    def urls(self) -> list[str]:
        """Of all parts, in order."""
        parts = urlsplit(self.url)
        return [parts._replace(path=path).geturl() for path in parts_of(parts.path)]

    @property
    def path(self) -> Path:
        """Below a directory of models. The whole URL counts, query included: it may be what names the file."""
        name = PurePosixPath(unquote(urlsplit(self.url).path)).name
        return Path("urls") / sha256(self.url.encode()).hexdigest()[:16] / (name or "model.gguf")


Source = LocalFile | HubModel | WebFile

DEMO = HubModel(
    repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    revision="ebb2015119c907b064c512bf053e945850b5875f",
    file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
)


def parse(model: str) -> Source:
    """What MODEL names; raises ConfigError if it cannot be any of them."""
    if model == "demo":
        return DEMO
    if "://" in model:
        return _parse_url(model)
    if model.startswith(("/", ".", "~")):
        return LocalFile(Path(first_part(model)))
    hub_model = _HUB_MODEL.fullmatch(model)
    if hub_model and not hub_model["repo"].endswith(".gguf"):
        return _hub_model(**hub_model.groupdict(""))
    if model.endswith(".gguf"):
        return LocalFile(Path(first_part(model)))
    raise ConfigError(
        f"MODEL has value {model!r}: it must be demo, the path of a .gguf file, org/name:QUANT, org/name/file.gguf "
        "(both with @revision if wanted), or an https URL."
    )


def _parse_url(url: str) -> Source:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http"):
        raise ConfigError(f"MODEL is a URL with scheme {parts.scheme!r}: it must be https.")
    page = _HUB_PAGE.fullmatch(parts.path) if parts.hostname in _HUB_HOSTS else None
    if not page:
        return WebFile(parts._replace(path=first_part(parts.path)).geturl())
    return _hub_model(page["repo"], unquote(page["revision"] or ""), unquote(page["file"] or ""), quant="")


def _hub_model(repo: str, revision: str, file: str, quant: str) -> HubModel:
    if ".." in (*file.split("/"), *revision.split("/")):
        raise ConfigError(f"MODEL names repository {repo} with '..' in its file or revision.")
    return HubModel(repo, revision or DEFAULT_REVISION, first_part(file), quant.upper())


def choices(names: Iterable[str], source: HubModel) -> list[str]:
    """Which of a repository's files `source` means, first parts only. One is a choice; more or none is the caller's."""
    firsts = sorted(name for name in names if first_part(name) == name)
    if source.file:
        return [name for name in firsts if name.casefold() == source.file.casefold()]
    models = [name for name in firsts if is_model(name)]
    if source.quant:
        return [name for name in models if quant_of(name) == source.quant]
    return [name for name in models if quant_of(name) == DEFAULT_QUANT] or models


def is_model(name: str) -> bool:
    """Whether a repository's file is a model, not a vision projector or the statistics a quantisation was made with."""
    name = PurePosixPath(name).name.casefold()
    return name.endswith(".gguf") and "mmproj" not in name and not name.startswith("imatrix")


def quant_of(name: str) -> str:
    """The quantisation a file name ends in, in upper case, such as `Q4_K_M` or `UD-IQ2_XXS`; empty if it has none."""
    found = _QUANT.findall(name.upper())
    return str(found[-1]) if found else ""


def parts_of(name: str) -> list[str]:
    """All files of the model that has this file, in order. Takes names and paths."""
    split = _PART.search(name)
    if not split:
        return [name]
    num_parts = split[1]
    return [_PART.sub(f"-{index:05}-of-{num_parts}", name) for index in range(1, int(num_parts) + 1)]


def first_part(name: str) -> str:
    return parts_of(name)[0]
