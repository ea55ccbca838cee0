"""Hugging Face: which files a repository has, how long they are and what their checksums are.

Only lists; the bytes are fetched by `downloads`. Knows nothing about quantisations or where files are kept.
"""

import re
from typing import NamedTuple
from urllib.parse import quote

from pydantic import SecretStr

from handler.errors import ModelError, NetworkError
from handler.models.downloads import require_https

TIMEOUT = 10.0  # seconds
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:]")  # in a part of a file's name


class HubFile(NamedTuple):
    """A file of a repository. Small files are not in LFS and have no sha256."""

    name: str
    num_bytes: int | None
    sha256: str | None


class Listing(NamedTuple):
    """The files of one commit, by which they are fetched too: a branch may move in between."""

    commit: str
    files: dict[str, HubFile]


def list_files(endpoint: str, repo: str, revision: str, token: SecretStr) -> Listing:
    """Ask Hugging Face; raises ModelError for an unknown repository or revision, NetworkError if it does not answer."""
    # Imported here because it takes a quarter of a second, which a worker that has its model need not spend.
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError  # noqa: PLC0415

    require_https(endpoint)
    api = HfApi(endpoint=endpoint.rstrip("/"), token=token.get_secret_value() or False)
    try:
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
    except RevisionNotFoundError:
        raise ModelError(f"Repository {repo} on Hugging Face has no revision {revision}: check MODEL.") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"There is no repository {repo} on Hugging Face, or none this worker may see, and no such file here "
            f"({_sent(token)}): check MODEL, and HF_TOKEN if the repository is private."
        ) from None
    except Exception as error:  # errors of its HTTP client, which changes from version to version
        raise NetworkError(f"{endpoint} cannot be asked for the files of {repo}: {_brief(error)}.") from error
    files = [HubFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None) for file in info.siblings or ()]
    return Listing(info.sha or revision, {file.name: file for file in files if is_plain(file.name)})


def is_plain(name: str) -> bool:
    """Whether a file's name, as a listing has it, stays below the directory that it is appended to.

    A listing comes from the network, and HF_ENDPOINT may be any mirror.
    """
    parts = name.split("/")
    return not any(part in ("", ".", "..") or FORBIDDEN.search(part) for part in parts)


def url_of(endpoint: str, repo: str, revision: str, file: str) -> str:
    return f"{endpoint.rstrip('/')}/{repo}/resolve/{quote(revision, safe='')}/{quote(file)}"


def _sent(token: SecretStr) -> str:
    return "HF_TOKEN was sent" if token else "no HF_TOKEN was sent"


def _brief(error: Exception) -> str:
    """The first line; HfApi appends advice."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
