"""Note who answered: the server that was asked, and the model that its replies name.

In: settings of an endpoint, stored replies.  Out: ``AnsweredBy``, kept with the step and shown beside its verdicts.
A stub, another version or a cheaper model behind the same address would give verdicts that pass for the asked model's.
So a reply that names another model than was asked is an error. Names of the same model, by rule: other case, an
organisation before it ("openai/gpt-4") or not, a date or a build of four digits after it ("gpt-4-0613",
"gpt-4o-2024-08-06", of "x-latest" too), a revision after "@"; of a server on this machine, which runs what its owner
started, also what the asked name begins with ("llama3" for "llama3:8b"). Any other is taken if ``served_as`` gives it.
Known gap: a server may name any model it likes; one that names none is believed, and noted as "not named".
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.engine.records import read_json, write_json
from icon_repro.lm.options import EndpointConfig

KEY = "answered_by"  # of the metrics of a step that asked
FILE = f"{KEY}.json"
NOT_NAMED = "not named"
STAND_IN = "stand-in"  # names itself
_DATED = re.compile(r"(?:[-:_](?:\d{4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2}))?(?:@[\w./-]+)?")


def is_asked(endpoint: EndpointConfig, named: str | None) -> bool:
    """Whether a reply that names this model is one of the model that ``endpoint`` asks for."""
    if named is None or endpoint.stand_in:
        return True
    if endpoint.served_as is not None:
        return named == endpoint.served_as
    return same_model(endpoint.model, named) or (endpoint.local and _begins(endpoint.model, named))


def _begins(asked: str, named: str) -> bool:
    """Whether ``asked`` is ``named`` with a variant after it."""
    asked, named = asked.casefold(), named.casefold()
    return named != "" and asked.startswith(named) and asked[len(named)] in "-_:@"


def same_model(asked: str, named: str) -> bool:
    """Whether ``named`` is ``asked`` by the rule of this module."""
    asked, named = asked.casefold(), named.casefold()
    if ("/" in asked) != ("/" in named):
        asked, named = asked.rpartition("/")[2], named.rpartition("/")[2]
    begin = asked.removesuffix("-latest")
    return named == asked or (named.startswith(begin) and _DATED.fullmatch(named[len(begin) :]) is not None)


def answered_by(endpoint: EndpointConfig, named: Iterable[str | None]) -> dict[str, Any]:
    """Server, asked model, and how many replies name which model.

    Args:
        named: of each reply, the model it names.
    """
    counts = Counter(one if one is not None else NOT_NAMED for one in named)
    server = STAND_IN if endpoint.stand_in else endpoint.server_name
    return {"server": server, "asked": endpoint.model, "named": dict(sorted(counts.items()))}


def write_answered_by(out: Path, found: Mapping[str, Any]) -> None:
    write_json(out / FILE, dict(found))


def together(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One for each server and asked model, in order of first appearance, with the counts of all."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for one in found:
        counts.setdefault((one["server"], one["asked"]), Counter()).update(one["named"])
    return [{"server": s, "asked": a, "named": dict(sorted(named.items()))} for (s, a), named in counts.items()]


def joined(folders: Iterable[Path]) -> dict[str, Any] | None:
    """What several steps noted, together; None if none of them did, or if they asked different endpoints."""
    answering = together([read_json(folder / FILE) for folder in folders if (folder / FILE).is_file()])
    return answering[0] if len(answering) == 1 else None


def told(found: Iterable[Mapping[str, Any]]) -> str:
    """For people, empty if nobody was asked: ``gpt-4 at https://api.openai.com/v1 (replies name gpt-4-0613)``."""
    return "; ".join(
        f"a stand-in for {one['asked']}"
        if one["server"] == STAND_IN
        else f"{one['asked']} at {one['server']} (replies name {', '.join(one['named']) or NOT_NAMED})"
        for one in together(list(found))
    )
