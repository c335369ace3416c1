import time

import numpy as np
import pytest

from icon_repro.data.candidates import CandidatesError, head, overlaps, run
from icon_repro.data.options import CandidatesSize, OrderConfig, Overlap
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, read_rows, write_rows

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


@pytest.fixture
def order(runtime, tmp_path):
    def go(pool, assessment, **settings):
        for name, rows in (("pool", pool), ("assessment", assessment), ("out", [])):
            (tmp_path / name).mkdir(exist_ok=True)
            write_rows(tmp_path / name / "rows.jsonl", rows)
        inputs = {name: tmp_path / name for name in ("pool", "assessment")}
        out = tmp_path / "out"
        metrics = run(OrderConfig(**settings), inputs, out, runtime)
        return metrics, read_rows(out / "rows.jsonl", Example), read_json(out / "overlap.json")

    return go


@pytest.fixture
def take(runtime, tmp_path):
    def go(size):
        out = tmp_path / f"head{size}"
        out.mkdir()
        metrics = head(CandidatesSize(size), {"order": tmp_path / "out"}, out, runtime)
        return metrics, [row.id for row in read_rows(out / "rows.jsonl", Example)]

    return go


def test_order_is_a_seeded_permutation_whatever_the_order_of_the_pool(order, example):
    pool = [example(f"task {i}") for i in range(50)]
    ids = [row.id for row in order(pool, [example("other")])[1]]
    assert sorted(ids) == sorted(row.id for row in pool) and ids != sorted(ids)
    assert [row.id for row in order(pool[::-1], [example("other")])[1]] == ids
    assert [row.id for row in order(pool, [example("other")], seed=7)[1]] != ids


def test_candidates_larger_size_extends_smaller(order, take, example):
    drawn = [row.id for row in order([example(f"task {i}") for i in range(50)], [example("other")])[1]]
    assert take(7)[1] == drawn[:7] and take(30)[1] == drawn[:30] and take(None)[1] == drawn


def test_candidates_pools_are_disjoint_slices_of_the_order(order, example, tmp_path, runtime):
    rows = order([example(str(i)) for i in range(10)], [example("z")])[1]
    out = tmp_path / "slice"
    out.mkdir()
    pools = []
    for pool in range(3):
        head(CandidatesSize(3, pool * 3), {"order": tmp_path / "out"}, out, runtime)
        pools.append(read_rows(out / "rows.jsonl", Example))
    assert [row for rows_of_pool in pools for row in rows_of_pool] == rows[:9]
    with pytest.raises(CandidatesError, match=r"1 of 10 rows are left after the first 9, for a pool of 3\. Lower"):
        head(CandidatesSize(3, 9), {"order": tmp_path / "out"}, out, runtime)


def test_candidates_too_few_rows_keeps_all_and_says_so(order, take, example):
    order([example("1234", "12"), example("12", "1234")], [example("other")])
    metrics, ids = take(5)
    assert len(ids) == 2
    assert metrics == {"rows": 2, "short_by": 3, "prompt_chars": 3.0, "response_chars": 3.0}


@pytest.mark.parametrize(
    "row, other, kind",
    [
        (("Say hi!", "x"), ("say  HI", "y"), "exact"),
        (("Say", "x", "hi"), ("say hi", "y"), "exact"),
        (("a", f"{LONG}."), ("b", LONG.upper()), "exact"),
        (("a", "short answer"), ("b", "short answer"), None),
        (("a", f"well, {LONG}"), ("b", f"{LONG} and so on"), "ngram"),
        ((LONG, "a"), ("b", f"so: {LONG}"), "ngram"),
        (("a", LONG.removesuffix(" thirteen") + " end"), ("b", LONG), None),
        (("one two", LONG.removeprefix("one two ")), ("b", f"is {LONG} so"), "ngram"),  # prompt + response
        (("甲", "植物需要阳光来进行光合作用。"), ("乙", "因为植物需要阳光来进行光合作用"), "ngram"),
    ],
)
def test_overlap_kinds(example, row, other, kind):
    def make(instruction, response, input=""):
        return example(instruction, response, input)

    pool, assessment = make(*row), make(*other)
    exact, ngram = overlaps([pool], [assessment], 13)
    pair = {pool.id: [assessment.id]}
    assert (exact, ngram) == (pair if kind == "exact" else {}, pair if kind == "ngram" else {})


def test_overlap_finished_prompt_in_scoring_template_is_exact(example):
    ready = example("### Instruction:\nSay hi.\n\n### Input: to Ann\n\n### Response:", "Hi", ready=True)
    pool = example("Say hi.", "Hello", "to Ann")
    assert overlaps([pool], [ready], 13) == ({pool.id: [ready.id]}, {})


def test_overlaps_agree_with_an_obvious_loop(example):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("abc"), size=generator.integers(3, 12))) for _ in range(80)]
    rows = [example(f"x{i}", text) for i, text in enumerate(texts)]
    pool, assessment = rows[:60], rows[60:]
    exact, ngram = overlaps(pool, assessment, 4)

    def grams(row):
        words = f"{row.instruction} {row.response}".split()
        return [words[i : i + 4] for i in range(len(words) - 3)]

    for row in pool:
        same = sorted(a.id for a in assessment if a.response == row.response and len(row.response.split()) >= 4)
        share = sorted(a.id for a in assessment if any(g in grams(a) for g in grams(row)))
        assert exact.get(row.id, []) == same
        assert ngram.get(row.id, []) == ([] if same else share)
    assert exact and ngram and len(exact) + len(ngram) < len(pool)


@pytest.mark.parametrize("overlap, rows", [(Overlap.drop, 1), (Overlap.keep, 3)])
def test_order_overlap_is_counted_and_dropped_if_asked(order, example, overlap, rows):
    pool = [example("Say hi"), example("b", f"so {LONG}"), example("c")]
    assessment = [example("say hi!", "Hello"), example("d", f"as {LONG}"), example("e", f"if {LONG}")]
    metrics, kept, report = order(pool, assessment, overlap=overlap)
    assert (metrics["overlap_exact"], metrics["overlap_ngram"], metrics["dropped"]) == (1, 1, 3 - rows)
    assert metrics["rows"] == len(kept) == rows
    assert report["rows"] == {"exact": 1, "ngram": 1} and report["pairs"] == {"exact": 1, "ngram": 2}
    assert [pool[0].id, assessment[0].id, "exact"] in report["first_pairs"] and len(report["first_pairs"]) == 3


def test_order_many_pairs_named_up_to_a_limit_counted_in_full(order, example):
    pool = [example(f"p{i}", LONG) for i in range(40)] + [example("free")]
    report = order(pool, [example(f"a{i}", LONG) for i in range(40)])[2]
    assert report["pairs"]["exact"] == 1600 and len(report["first_pairs"]) == 1000


def test_order_nothing_left_names_counts_and_remedy(order, example):
    with pytest.raises(CandidatesError, match=r"none of 2 pool rows.*1 share a whole.*1 share 13 words.*overlap=keep"):
        order([example("Say hi"), example("b", f"so {LONG}")], [example("say hi!"), example("c", f"as {LONG}")])


def test_overlaps_large_sets_take_seconds(example):
    generator = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(3000)])
    rows = [example(f"t{i}", " ".join(generator.choice(words, size=80))) for i in range(6000)]
    started = time.process_time()
    overlaps(rows[1000:], rows[:1000], 13)
    assert time.process_time() - started < 10
