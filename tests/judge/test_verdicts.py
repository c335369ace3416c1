"""Reading a judge's reply: the stored reviews of GPT-4, forms that judges write, and what must be refused."""

import json
import random
from pathlib import Path

import pytest

from icon_repro.evaluate.judge.readings import VerdictError, parse_scores, parse_verdict


@pytest.mark.parametrize("name, rows", [("koala_gpt4", 180), ("vicuna_gpt4", 80)])
def test_parse_scores_every_stored_review_gives_the_stored_scores(shared: Path, name: str, rows: int) -> None:
    lines = (shared / "data" / "judge" / "reviews" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == rows
    for line in lines:
        row = json.loads(line)
        assert list(parse_scores(row["review"])) == row["scores"]
        assert list(parse_scores(row["review_reverse"])) == row["scores_reverse"]


@pytest.mark.parametrize(
    "text, expected",
    [
        # as asked for
        ("8 9\nAssistant 1 misses 3 of 4 points.", (8, 9)),
        ("8.5 9\r\n\r\nBoth", (8.5, 9)),
        ("\n\n  10 10  \n", (10, 10)),
        ("8 9\n\nOn reflection I would say 7 9.", (8, 9)),
        # separators
        ("8, 7", (8, 7)),
        ("10,7", (10, 7)),  # 10.7 is no score
        ("8.5,7", (8.5, 7)),
        ("<think>\n9 2\nHm.</think>\n\n3 8", (3, 8)),
        ("First I thought 9 2.\n9 2\n</think>\n3 8", (3, 8)),
        ("<THINK a='b'>9 2 <think>1 1</think> 5 5</THINK>3 8\nBecause.", (3, 8)),
        ("[reasoning]9 2[/reasoning]\n3 8", (3, 8)),
        ("<|channel|>analysis<|message|>9 2<|end|><|start|>assistant<|channel|>final<|message|>3 8<|return|>", (3, 8)),
        ("8/7", (8, 7)),
        ("8\t7", (8, 7)),
        ("8; 7", (8, 7)),
        ("8 | 7", (8, 7)),
        ("8 - 7", (8, 7)),
        ("8 and 7", (8, 7)),
        ("8 vs. 7", (8, 7)),
        ("[8, 7]", (8, 7)),
        ("(8, 7).", (8, 7)),
        # of ten
        ("8/10 7/10", (8, 7)),
        ("8/10, 7.5/10", (8, 7.5)),
        ("8 / 10 and 7 / 10", (8, 7)),
        ("8 out of 10, 10 out of 10", (8, 10)),
        ("10/10 9/10", (10, 9)),
        # dressed up
        ("**8 9**", (8, 9)),
        ("`8 9`", (8, 9)),
        ("```\n8 9\n```\nThe first", (8, 9)),
        ("### 8 9", (8, 9)),
        ('"8 9"', (8, 9)),
        ("<b>8 9</b>", (8, 9)),
        ("８ ９", (8, 9)),
        ("８．５　９", (8.5, 9)),
        ("\ufeff8 9", (8, 9)),
        ("8 9 Both assistants were good.", (8, 9)),
        ("8 9 - Assistant 1 has 2 errors.", (8, 9)),
        ("8 9 because the 2nd is longer", (8, 9)),
        ("8 9, because it is longer", (8, 9)),
        ("8 9。两个回答都很好。", (8, 9)),
        ("\u202a8 9\u202c\nBoth", (8, 9)),
        ("\x008\u200e 9", (8, 9)),
        # announced
        ("Scores: 8 9", (8, 9)),
        ("Score: 8, 9\nBoth", (8, 9)),
        ("**Final scores:** 8, 9", (8, 9)),
        ("Rating: 8/10 9/10", (8, 9)),
        ("Sure! Here are the scores:\n\n8 9", (8, 9)),
        ("Here you go: 8 9", (8, 9)),
        ("Final evaluation: 8 9", (8, 9)),
        ("Assistant 1 is better.\n8 7\nIt has 3 examples.", (8, 7)),
        ("Assistant 1 and 2: 8 9", (8, 9)),
        ("Scores for Assistant 1 and Assistant 2, respectively: 8 9", (8, 9)),
        ("Assistant 2 and Assistant 1: 7 8", (8, 7)),
        # with labels
        ("Assistant 1: 8, Assistant 2: 7", (8, 7)),
        ("Assistant 1: 8 Assistant 2: 7", (8, 7)),
        ("Assistant 2: 7; Assistant 1: 8", (8, 7)),
        ("Assistant 1: 8\nAssistant 2: 7\n\nAssistant 1 has 3 of 4.", (8, 7)),
        ("**Assistant 1: 8/10**\n\n**Assistant 2: 9/10**", (8, 9)),
        ("Assistant 1 score: 9\nAssistant 2 score: 8", (9, 8)),
        ("Assistant 1's score is 9, Assistant 2's score is 8.", (9, 8)),
        ("Score for Assistant 1: 9\nScore for Assistant 2: 8.5", (9, 8.5)),
        ("The score of Assistant 1: 9\nThe score of Assistant 2: 8", (9, 8)),
        ("Evidence: both are good.\nThe score of Assistant 1: 9\nThe score of Assistant 2: 8", (9, 8)),
        ("Assistant 1: 8, Assistant 2: 7. Both name 3 of 4.", (8, 7)),
        ("Assistant 1: 8 Assistant 2: 7 Assistant 1 is better.", (8, 7)),
        ("Assistant 1: 8/10, Assistant 2: 7/10. Both are good. " + "The first has more to say. " * 20, (8, 7)),
        ("Sequence: 4 8\n\nAssistant 1: 8\nAssistant 2: 7", (8, 7)),
        ("1. Assistant 1: 8\n2. Assistant 2: 7", (8, 7)),
        ("- Assistant A - 8\n- Assistant B - 7", (8, 7)),
        ("Assistant 1 (8), Assistant 2 (7)", (8, 7)),
        ("| Assistant 1 | Assistant 2 |\n|---|---|\n| 8 | 7 |", (8, 7)),
        ("| Assistant 1 | 8 |\n| Assistant 2 | 7 |", (8, 7)),
        ("Scores: Assistant 1: 8, Assistant 2: 7", (8, 7)),
        # a line each
        ("8\n9\n\nBoth are good.", (8, 9)),
        # at the end
        ("Assistant 1 gives 5 reasons.\nAssistant 2 gives 3.\n\nFinal scores: 8 9", (8, 9)),
        ("Assistant 1 gives 5 reasons.\n\nScores:\n8 9", (8, 9)),
        ("It names 2 of 3.\n\nAssistant 1: 4/10\nAssistant 2: 6/10", (4, 6)),
        # no answer to judge
        ("0 0\n\nNeither provided an answer.", (0, 0)),
    ],
)
def test_parse_scores_forms_that_judges_write(text: str, expected: tuple[float, float]) -> None:
    assert parse_scores(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n\t\n", "I can't rate these answers.", "eight nine"),
        # one number, or too many
        *("8", "8/10", "8 / 10", "Assistant 1: 8", "8 9 7", "8\n9\n7", "8/10 7", "8/9/10"),
        # outside the scale
        *("11 8", "8 11", "100 90", "85/100 70/100", "-1 5", "8 -9", "0.5 8", "9.99 10.01"),
        "Assistant 1: -8\nAssistant 2: 7",
        # not numbers
        *("8,7", "3,5\n8,0\nbecause", "Scores: 8,5", "Well\nScores: 8,5\n3 8", "8,5 because it is short"),
        *("<think>9 2", "<think>9 2</think>", "<|channel|>analysis<|message|>9 2", "<think>a</think><think>3 8"),
        *("nan 8", "inf 9", "1e1 5", "8½ 9", "8,5 9", "9" * 400 + " 5"),
        # prose
        "I'd give Assistant 1 an 8 and Assistant 2 a 7.",
        "The scores are 8 and 9, respectively",
        "2 of 3 facts are right",
        "1 and 2 are equally good",
        "Assistant 1 and 2 both explain it.",
        "Assistant 1 lists 8 films, Assistant 2 lists 7.",
        "In 1939 4 films came out.",
        "8-9",
        "The correct answer is: 5 6",
        "The probability is: 1/6\nBoth assistants fail.",
        "Ratio: 3/4",
        "8 9 since 1990",
        # contradicting or of parts only
        "Assistant 1: 8\nAssistant 1: 7",
        "Assistant 1: 8\nAssistant 2: 7\nAssistant 1: 9",
        "Helpfulness: 8 9\nRelevance: 7 9\nOverall: 8 9",
        "It has 3 errors.\nScores: 8 9\nScores: 9 8",
        "Assistant 10: 8, Assistant 2: 7",
        "Assistant 1: 8, Assistant 2: 7, Assistant 3: 4",
        "Assistant 1: 8 Assistant 2: 7 Assistant 3: 4",
        "Assistant 1: 8, Assistant 2: 7" + " " * 170 + ", Assistant 3: 4",
        "Assistant 1: 8, Assistant 2: 7." + "0" * 180 + "1, Assistant 3: 4",
        "Assistant 1: 8, Assistant 2: 7 points for style",
        "I compare both.\n3 4\nScores: 8 9",
        # taken back
        *("8 9\n9 8", "8 9\nThe second is shorter.\n\nRevised scores: 9 8", "8 9\nAssistant 1: 9, Assistant 2: 8"),
        # a pair in the middle of something else
        "Assistant 1 is right in 3 of 4.\n8 9\nThe loop prints these.",
    ],
)  # fmt: skip
def test_parse_scores_what_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(VerdictError):
        parse_scores(text)


@pytest.mark.parametrize(
    "later", ["8 9", "Accuracy: 8/10", "Scores: 8, 9", "3 of 4 are right.", "The pair is 1, 2 here"]
)
def test_parse_scores_reasons_after_them_change_nothing(later: str) -> None:
    assert parse_scores(f"8 9\nThe second says more.\n{later}") == (8, 9)


def test_parse_scores_two_lines_of_ten_are_two_scores() -> None:
    assert parse_scores("8/10\n9/10") == parse_scores("**8 / 10**\n9 out of 10.\nBecause") == (8, 9)
    for text in ("8/10\n9/10\n7/10", "8/10\nBecause it is short", "8/10\n12"):
        with pytest.raises(VerdictError):
            parse_scores(text)


def test_parse_scores_out_of_scale_names_score_and_scale() -> None:
    with pytest.raises(VerdictError, match=r"score 11 in the reply '11 8 .*1-10"):
        parse_scores("11 8 " + "Because " * 50)


def test_parse_scores_random_pairs_in_random_forms_come_back() -> None:
    generator = random.Random(0)
    forms = [
        "{} {}", "{}, {}", "{}/10 {}/10", "Scores: {} {}", "Assistant 1: {}, Assistant 2: {}",
        "**{} {}**\n\nText 3 of 4.", "Assistant 1: {}\nAssistant 2: {}\nText.",
        "Final rating: {}/10, {}/10", "[{}, {}]", "{} {}. Both are good.",
    ]  # fmt: skip
    for _ in range(2000):
        pair = tuple(generator.choice([generator.randint(1, 10), generator.randint(2, 19) / 2]) for _ in range(2))
        text = generator.choice(forms).format(*pair)
        assert parse_scores(text) == pair, text


def test_parse_scores_long_hostile_lines_end_soon() -> None:
    for text in ("8 9 " * 20000, " " * 50000 + "8 9", "x" + " " * 50000 + "= 8 9", "Assistant 1: " * 5000, "[" * 50000):
        try:
            parse_scores(text)
        except VerdictError:
            continue


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A is better.\n[[A]]", "A"),
        ("[[b]]", "B"),
        ("Final verdict: **[[C]]**.", "C"),
        ("I lean to [[B]].\n\n[[B]]", "B"),
        ("[[A]] would be for more detail.\nStill, my verdict: [[B]]", "B"),
        ("It is not [[A]], so [[B]]", "B"),
    ],
)
def test_parse_verdict_reads_the_final_one(text: str, expected: str) -> None:
    assert parse_verdict(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "A", "[A]", "[[D]]", "[[A]] or [[B]]"),
        "[[A]]\nor [[B]] it could be, [[A]]",
        "[[A]]\n[[B]] is what it says.",
        "[[A]]\n[[B]]\nDone.",
        *("It's not [[A]]", "[[A]] would be wrong", "The verdict [[C]] can't be given", "Rather than **[[B]]**, none"),
    ],
)
def test_parse_verdict_none_or_contradicting_is_refused(text: str) -> None:
    with pytest.raises(VerdictError):
        parse_verdict(text)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>[[A]]</think>So [[B]]", "B"),
        ("It is [[A]].\n</think>\n[[B]]", "B"),
        ("<thinking>no, [[A]]?\n</thinking>\n**[[C]]**", "C"),
    ],
)
def test_parse_verdict_thoughts_do_not_count(text: str, verdict: str) -> None:
    assert parse_verdict(text) == verdict


def test_parse_verdict_a_reply_of_thoughts_alone_is_refused() -> None:
    with pytest.raises(VerdictError, match="holds thoughts alone"):
        parse_verdict("<think>It will be [[A]], or")
