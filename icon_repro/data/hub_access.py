"""Find out before any work whether what is read from a hub can be had: on this machine, or with this login.

In: repositories at commits.  Out: a line for those that can't, with the remedy.
Without a network (HF_HUB_OFFLINE, or no connection) the caches of huggingface_hub and datasets must hold them; with
one, a repository that they don't hold is asked for, twice: is this commit there, may this login read it. Nothing is
downloaded. Of a data set in the cache all subsets are taken for read if the wanted one is.
Known gap: whether a cached data set is whole shows when it is read.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.data.revisions import offline

_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before further tries, of what may pass
_TIMEOUT_S = 10.0
_AT_ONCE = 8
_SHORT = 12  # digits of a commit
_UNSERVED = (404, 405, 501)  # by a mirror that doesn't know logins


@dataclass(frozen=True)
class Repository:
    """What a step reads from a hub."""

    where: str  # key of the configuration above hub_id
    kind: str  # model or dataset
    hub_id: str
    commit: str
    subset: str | None = None

    @property
    def text(self) -> str:
        return f"{self.where}.hub_id={self.hub_id!r}"

    def absent(self) -> str | None:
        """What of it isn't in this machine's caches; None if it is there."""
        return self._model_absent() if self.kind == "model" else self._data_absent()

    def _model_absent(self) -> str | None:
        from huggingface_hub import constants

        folder = Path(constants.HF_HUB_CACHE) / constants.REPO_ID_SEPARATOR.join(["models", *self.hub_id.split("/")])
        snapshot = folder / "snapshots" / self.commit
        if not snapshot.is_dir():
            return f"no {self.commit[:_SHORT]}"
        if not (snapshot / "config.json").is_file():  # a link whose target is gone is none
            return "no config.json"
        index = snapshot / "model.safetensors.index.json"
        if not index.is_file():
            return None if any(path.is_file() for path in snapshot.glob("*.safetensors")) else "no *.safetensors"
        try:
            named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, TypeError, KeyError, AttributeError):
            return f"{index.name} is damaged"
        return next((f"no {name}" for name in named if not (snapshot / name).is_file()), None)

    def _data_absent(self) -> str | None:
        wanted = self.hub_id.replace("/", "").replace("_", "").lower()  # the folder of org/MuSR is org___mu_sr
        subset = f"{self.subset}*" if self.subset else "*"
        folders = [f for f in datasets_cache().glob("*___*") if f.name.replace("_", "").lower() == wanted]
        if any(any(folder.glob(f"{subset}/*/{self.commit}")) for folder in folders):
            return None
        return f"no {f'subset {self.subset} at ' if self.subset else ''}{self.commit[:_SHORT]}"


def datasets_cache() -> Path:
    """Where ``datasets`` keeps what it has read."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()


def unreadable(repositories: Iterable[Repository]) -> list[str]:
    """A line for each repository that can't be read here; one for all that a machine without a network lacks."""
    lacking = {one: why for one in dict.fromkeys(repositories) if (why := one.absent())}
    asked = [one for one in lacking if not one.commit.startswith("unresolved:")]  # a branch has its own line
    if not asked:
        return []
    if offline():
        return [_lacking({one: lacking[one] for one in asked}, "HF_HUB_OFFLINE is set")]
    first, *others = asked
    try:
        found = [_refusal(first)]
    except ConnectionError as error:
        return [_lacking({one: lacking[one] for one in asked}, f"the hub can't be reached ({error})")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found += pool.map(_quietly, others)
    return [line for line in found if line is not None]


def _lacking(lacking: dict[Repository, str], why: str) -> str:
    from huggingface_hub import constants

    named = ", ".join(f"{one.text} ({what})" for one, what in lacking.items())
    caches = constants.HF_HUB_CACHE
    if any(one.kind == "dataset" for one in lacking):
        caches = f"{caches}, {datasets_cache()}"
    return (
        f"{why}, and this machine's caches ({caches}) lack what this plan reads: {named}. Run the same command with "
        "action=fetch where there is a network, and give this machine that paths.work, paths.cache and HF_HOME, or "
        "copies of them."
    )


def _quietly(repository: Repository) -> str | None:
    try:
        return _refusal(repository)
    except ConnectionError as error:
        return f"{repository.text}: the hub can't be reached ({error}). Run again once it can."


def _refusal(repository: Repository) -> str | None:
    """Why the hub doesn't give a repository to this login; None if it does.

    Raises:
        ConnectionError: nobody answers.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    page = f"{constants.ENDPOINT}/api/{repository.kind}s/{repository.hub_id}"
    for url in (f"{page}/revision/{repository.commit}", f"{page}/auth-check"):
        get = _get(get_session(), url, build_hf_headers())
        response, tries = get(), 1
        for pause_s in _PAUSES_S:
            if response.status_code != 429 and response.status_code < 500:
                break
            time.sleep(pause_s)
            response, tries = get(), tries + 1
        if response.status_code >= 400:
            headers = response.headers
            if url.endswith("/auth-check") and response.status_code in _UNSERVED and "X-Error-Code" not in headers:
                return None
            codes = headers.get("X-Error-Code") or "", headers.get("X-Error-Message") or ""
            return f"{repository.text}: {_told(repository, response.status_code, *codes, tries)}"
    return None


def _get(session: Any, url: str, headers: dict[str, str]) -> Callable[[], Any]:
    def get() -> Any:
        for last in (False, True):
            try:
                return session.get(url, headers=headers, timeout=_TIMEOUT_S)
            except Exception as error:  # of whichever library huggingface_hub uses; all mean that nobody answered
                name = type(error).__name__
                if last or "Timeout" not in name:  # one slow answer is no lack of a network
                    raise ConnectionError(f"{name}: {' '.join(str(error).split())[:120]}") from error
        raise AssertionError("the second try returns or raises")

    return get


def _told(repository: Repository, status: int, code: str, message: str, tries: int) -> str:
    """What an answer means for who asked, and what mends it."""
    from huggingface_hub import constants

    prefix = "" if repository.kind == "model" else "datasets/"
    page = f"{constants.ENDPOINT}/{prefix}{repository.hub_id}"
    login = "hf auth login, or HF_TOKEN in the environment"
    if code == "GatedRepo":
        if status == 401:
            return f"is gated, and nobody is logged in (HTTP 401). Accept its terms on {page} and log in: {login}."
        return (
            f"is gated, and this login has no access (HTTP {status}). Ask for it on {page}, with the same account; a "
            f"fine-grained token must be allowed to read gated repositories. Another login: {login}."
        )
    if code == "RevisionNotFound":
        return f"has no commit {repository.commit} (HTTP {status}). Correct {repository.where}.revision; see {page}."
    if code == "RepoNotFound" or status == 404:
        return f"no such repository, or a private one (HTTP {status}). Correct the id; for a private one: {login}."
    if status == 401:
        return f"the login isn't accepted ({message or 'HTTP 401'}). Renew it: {login}."
    if status == 403:
        return f"this login may not read it ({message or 'HTTP 403'}). See {page}; another login: {login}."
    if status == 429:
        return f"the hub is asked too often (HTTP 429, {tries} tries). Run again in some minutes; a login may ask more."
    return f"the hub answers with HTTP {status} ({tries} tries{f': {message}' if message else ''}). Run again later."


def lost(repositories: Sequence[Repository]) -> list[Repository]:
    """Models that a finished step has read and this machine's cache lacks: it was cleaned, or is another machine's."""
    return [one for one in dict.fromkeys(repositories) if one.kind == "model" and one.absent()]
