"""What libraries warn of is in the step's record, counted; deprecations and what is meant aren't."""

import logging
import warnings

from icon_repro.engine.console import LOG
from icon_repro.engine.notices import collected, lines


def test_equal_warnings_are_counted_numbers_aside() -> None:
    library = logging.getLogger("transformers.models.odd")
    with collected() as notices:
        for length in (1024, 2048):
            library.warning("Token indices are %d long\n  (> 512)", length)
        logging.getLogger("some.library").error("no such kernel")
        library.info("nothing")
        LOG.warning("\x1b[1mtiny\x1b[0m: cut")
    library.warning("too late")
    assert notices.rows() == [
        {"source": "transformers", "text": "Token indices are 1024 long (> 512)", "count": 2},
        {"source": "some", "text": "no such kernel", "count": 1},
        {"source": "icon_repro", "text": "tiny: cut", "count": 1},
    ]
    assert lines({"warnings": notices.rows()})[:2] == [
        "warning (transformers, 2 times): Token indices are 1024 long (> 512)",
        "warning (some): no such kernel",
    ]
    assert lines({}) == []


def test_python_warnings_count_but_those_of_later_versions() -> None:
    with warnings.catch_warnings(), collected() as notices:
        warnings.simplefilter("always")
        warnings.warn("Found missing adapter keys", stacklevel=1)
        warnings.warn("will be removed", FutureWarning, stacklevel=1)
        warnings.warn("is deprecated", DeprecationWarning, stacklevel=1)
    assert [one["text"] for one in notices.rows()] == ["Found missing adapter keys"]


def test_what_is_meant_is_left_out_and_many_kinds_are_bounded() -> None:
    with collected() as notices:
        logging.getLogger("lm_eval").warning("Passed an already-initialized model through `pretrained`, assuming")
        logging.getLogger("DeepSpeed").warning("Setting accelerator to CPU. If you have GPU or other accelerator, ..")
        for number in range(50):
            logging.getLogger("peft").warning("kind " + "x" * number)
    rows = notices.rows()
    assert len(rows) == 21
    assert rows[-1] == {
        "source": "icon_repro",
        "text": "more than 20 kinds of warnings; see the step's log",
        "count": 30,
    }


def test_a_message_that_does_not_fit_its_arguments_is_kept() -> None:
    logger = logging.getLogger("datasets")
    before = logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        with collected() as notices:
            logger.warning("%d rows", "no number")
    finally:
        logging.raiseExceptions = before
    assert notices.rows()[0]["text"] == "%d rows"
