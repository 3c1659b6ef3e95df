"""What the model hub says of a file: its revision, size, digest and licence. The hub's mirrors say the same."""

import re
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from gimle.foundation.errors import Forbidden, NotFound, UpstreamError
from gimle.foundation.outbound import Outbound, Reply, Request
from gimle.gateway.local.types import File, Licence

_SECONDS = 30.0
_LARGEST = 16 * 1024 * 1024
_REDIRECTS = 5
_OPEN = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "isc", "unlicense")
_NAMED = re.compile(r"^hf:([\w.-]+/[\w.-]+)/([^@\s]+\.gguf)(?:@([\w./-]+))?$")


class _Large(msgspec.Struct):
    sha256: str | None = None
    size: int | None = None


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: _Large | None = None


class _Card(msgspec.Struct):
    license: str | list[str] | None = None
    license_name: str | None = None
    license_link: str | None = None


class _Repository(msgspec.Struct, rename={"card": "cardData"}):
    sha: str
    siblings: list[_Sibling] = []
    tags: list[str] = []
    card: _Card | None = None


def named(source: str) -> File | None:
    """The file that `hf:OWNER/REPOSITORY/FILE.gguf[@REVISION]` names; None where it names none."""
    found = _NAMED.match(source)
    return File(repository=found[1], file=found[2], revision=found[3] or "main") if found else None


def address(hub: str, file: File) -> str:
    """Where a file is fetched."""
    if file.url is not None:
        return file.url
    return f"{hub}/{file.repository}/resolve/{quote(file.revision, safe='')}/{quote(file.file)}"


async def ask(outbound: Outbound, hub: str, token: str | None, file: File) -> tuple[File, Licence]:
    """The file at the revision that its name stands for now, with size and digest, and the repository's licence.

    Raises `NotFound`, `Forbidden` or `UpstreamError`.
    """
    url = f"{hub}/api/models/{file.repository}/revision/{quote(file.revision, safe='')}?blobs=true"
    headers = (("authorization", f"Bearer {token}"),) if token else ()
    reply = await _asked(outbound, url, headers)
    if reply.status in (401, 403):
        raise Forbidden(f"The hub does not show {file.repository} to everybody.", hint="Give your token as HF_TOKEN.")
    if reply.status == 404:
        raise NotFound(f"The hub has no {file.repository} at {file.revision}.")
    if reply.status != 200:
        raise UpstreamError(f"The hub answered with status {reply.status}.")
    try:
        found = msgspec.json.decode(reply.body, type=_Repository)
    except msgspec.DecodeError:
        raise UpstreamError("The hub's answer is not what it should be.") from None
    for each in found.siblings:
        if each.rfilename == file.file:
            large = each.lfs or _Large()
            pinned = msgspec.structs.replace(
                file, revision=found.sha, size=large.size or each.size, sha256=large.sha256
            )
            return pinned, _licence(found, f"{hub}/{file.repository}")
    models = [each.rfilename for each in found.siblings if each.rfilename.endswith(".gguf")]
    raise NotFound(
        f"{file.repository} has no {file.file}.", hint=f"It has {', '.join(models[:8])}." if models else None
    )


async def _asked(outbound: Outbound, url: str, headers: tuple[tuple[str, str], ...]) -> Reply:
    """The hub's answer. A repository that was renamed is followed to its new name, but never to another host."""
    for _ in range(_REDIRECTS):
        reply = await outbound.send(Request(method="GET", url=url, headers=headers), seconds=_SECONDS, limit=_LARGEST)
        following = urljoin(url, reply.headers.get("location", url))
        if reply.status not in (301, 302, 303, 307, 308) or urlsplit(following)[:2] != urlsplit(url)[:2]:
            return reply
        url = following
    raise UpstreamError("The hub redirects in a circle.")


def _licence(repository: _Repository, page: str) -> Licence:
    card = repository.card or _Card()
    said = card.license if isinstance(card.license, str) else None
    tag = next((tag.removeprefix("license:") for tag in repository.tags if tag.startswith("license:")), None)
    short = said or tag or "unknown"
    return Licence(
        name=card.license_name or short,
        url=card.license_link if card.license_link and card.license_link.startswith("https://") else page,
        open=short in _OPEN,
        notice="" if short in _OPEN else "Read its terms on the hub before you use it.",
    )
