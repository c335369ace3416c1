"""An endpoint that nobody is behind: for a rehearsal, in this process, without a network or a key.

In: the body of a request.  Out: a reply that every reader of ours understands, drawn from the body's hash. Of 20
requests about one is refused; of 10 replies about one can't be read, which asking again may mend.
A reply gives two scores from 1 to 5, or, where a verdict or a rating is asked for, those. It judges nothing.
"""

import hashlib
import json
from collections import Counter

from icon_repro.lm.endpoint_http import Completion, Connection, Fault, Key
from icon_repro.lm.options import EndpointConfig

MODEL = "stand-in"
_REFUSED, _UNREADABLE = 13, 25  # of 256 values of a byte
_UNREAD = "I would rather not put that into numbers."
_RATING = "the number alone on the first line"  # as AlpaGasus asks


class StandInConnection(Connection):
    """Replies at once.

    Args:
        tries: how often each body was sent before, over all connections.
    """

    def __init__(self, tries: Counter[bytes]) -> None:
        self._tries = tries

    async def close(self) -> None:
        pass

    async def send(self, body: bytes) -> Completion | Fault:
        self._tries[body] += 1
        return reply(body, self._tries[body])


def reply(body: bytes, turn: int) -> Completion:
    """What is said to ``body``.

    Args:
        turn: which try it is: a reply that can't be read isn't said for ever.
    """
    drawn = hashlib.sha256(body).digest()
    if drawn[0] < _REFUSED:
        return Completion("", "content_filter", MODEL, 0, 0, refused=True)
    unlucky = hashlib.sha256(body + str(turn).encode()).digest()[1] < _UNREADABLE
    asked = json.loads(body)["messages"][-1]["content"]
    if unlucky:
        text = _UNREAD
    elif _RATING in asked:
        text = f"{drawn[2] % 11 / 2}\nThis is a stand-in's rating."
    else:
        verdict = "ABC"[drawn[4] % 3]
        text = f"{1 + drawn[2] % 10} {1 + drawn[3] % 10}\nThis is a stand-in's verdict.\n[[{verdict}]]"
    return Completion(text, "stop", MODEL, len(asked) // 4, len(text) // 4)


def stand_ins(endpoint: EndpointConfig, key: Key, count: int) -> list[Connection]:
    """``count`` connections to nobody; takes what ``connections`` takes. The key isn't used."""
    tries = Counter[bytes]()
    return [StandInConnection(tries) for _ in range(count)]
