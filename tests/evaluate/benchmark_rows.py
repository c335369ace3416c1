"""Rows in the columns of the data sets that the benchmarks of paper12 read, all made up, and a hub that serves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

ARC = [
    {
        "id": "a1",
        "question": "Which of these gives off light of its own?",
        "choices": {"text": ["the moon", "a star", "a stone", "ice"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    },
    {
        "id": "a2",
        "question": "What do plants take in?",
        "choices": {"text": ["iron", "light", "sand"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    {
        "id": "a3",
        "question": "What floats?",
        "choices": {"text": ["cork", "lead", "iron", "gold"], "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
    },
]
HELLASWAG = [
    {
        "ind": i,
        "activity_label": label,
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}",
        "endings": endings,
        "source_id": f"s{i}",
        "split": "val",
        "split_type": "indomain",
        "label": gold,
    }
    for i, (label, ctx_a, ctx_b, endings, gold) in enumerate(
        [
            ("Baking", "A cook opens an oven.", "he", ["takes bread out.", "swims [step] home.", "sings.", "x"], "0"),
            ("Rowing", "Two people sit in a boat.", "they", ["fly.", "pull the oars.", "are late", "7"], "1"),
            ("Reading [title]", "A girl holds a book.", "she", ["a", "turns a page.", "bb", "eats it."], "1"),
        ]
    )
]
TRUTHFULQA = [
    {
        "question": "What happens if you eat an apple seed?",
        "mc1_targets": {"choices": ["Nothing.", "You die."], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Nothing.", "Not much", "You die.", "A tree grows"], "labels": [1, 1, 0, 0]},
    },
    {
        "question": "How many colours has a rainbow?",
        "mc1_targets": {"choices": ["It depends", "Nine"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["It depends", "Nine", "Two"], "labels": [1, 0, 0]},
    },
]
GPQA = [
    {
        "Question": f" Which number is {n} + {n}?",
        "Correct Answer": f"{2 * n}",
        "Incorrect Answer 1": f"{2 * n + 1}",
        "Incorrect Answer 2": f"{n} ",
        "Incorrect Answer 3": f"{n - 1} [title] no",
    }
    for n in range(3, 9)
]
WINOGRANDE = [
    {"sentence": "The cup fell off the table as _ was tilted.", "option1": "cup", "option2": "table", "answer": "2"},
    {"sentence": "Ann thanked Eve since _ had helped her.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    {"sentence": "The box didn't fit as _ was large.", "option1": "the box", "option2": "it all", "answer": "1"},
]
MUSR = [
    {
        "narrative": f"{who} left the key in the drawer. Later it was gone.",
        "question": "Who took the key?",
        "choices": "['Ada', 'Ben Brown', 'C']",
        "answer_index": 1,
        "answer_choice": gold,
    }
    for who, gold in (("Ada", "Ben Brown"), ("Ben", "Ada"), ("Cy", "C"), ("Di", "Ada"))
]
_SENTENCE = ("sentence", "label")
_PAIR = ("sentence1", "sentence2", "label")
GLUE: dict[str, list[dict[str, Any]]] = {
    task: [{**dict(zip(columns, row, strict=True)), "idx": i} for i, row in enumerate(rows)]
    for task, columns, rows in (
        (
            "cola",
            _SENTENCE,
            [("They sang.", 1), ("Sang they it.", 0), ("A cat sat.", 1), ("Cat the a.", 0), ("We go.", 1)],
        ),
        ("sst2", _SENTENCE, [("a joy", 1), ("so dull", 0)]),
        (
            "mrpc",
            _PAIR,
            [("He ran.", "He was running.", 1), ("It rains.", "It is Monday.", 0), ("I ate.", "I had food.", 1)],
        ),
        (
            "qqp",
            ("question1", "question2", "label"),
            [("How old?", "What age?", 1), ("Who?", "Where is it?", 0), ("Why?", "For what reason?", 1)],
        ),
        ("qnli", ("question", "sentence", "label"), [("Who won?", "Ann won.", 0), ("Who won?", "Rain.", 1)]),
        ("rte", _PAIR, [("Ann won.", "Ann won", 0), ("Ann won.", "No", 1)]),
        ("wnli", _PAIR, [("Ann met Eve.", "x.", 0), ("Ann met Eve.", "Eve was met", 1)]),
        (
            "mnli",
            ("premise", "hypothesis", "label"),
            [("It rains.", "wet", 0), ("It rains.", "late ", 1), ("It rains.", "Dry.", 2)],
        ),
    )
}
BBH_TARGETS = {
    "boolean_expressions": "True",
    "causal_judgement": "Yes",
    "formal_fallacies": "valid",
    "navigate": "No",
    "object_counting": "5",
    "sports_understanding": "yes",
    "web_of_lies": "No",
}
IFEVAL = [
    {
        "key": 1,
        "prompt": "Name a colour without a comma, in three sentences or more.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
        "kwargs": [{"num_sentences": None, "relation": None}, {"num_sentences": 3, "relation": "at least"}],
    },
    {
        "key": 2,
        "prompt": "Use the word lamp, in small letters.",
        "instruction_id_list": ["keywords:existence"],
        "kwargs": [{"keywords": ["lamp"]}],
    },
    {
        "key": 3,
        "prompt": "Wrap it in double quotes; use no comma; write the word tea twice.",
        "instruction_id_list": ["startend:quotation", "punctuation:no_comma", "keywords:frequency"],
        "kwargs": [
            {"keyword": None, "frequency": None, "relation": None},
            {"keyword": None, "frequency": None, "relation": None},
            {"keyword": "tea", "frequency": 2, "relation": "at least"},
        ],
    },
]
LOGIQA = """
b
All birds here sing.Some birds are red.
Which follows?
A.No bird is red.
B.Some that sing are red.
C.Red things sing.
D.None of these.

d
It rained on Monday.
What is true?
A.It was dry.
B.It snowed.
C.It was Friday.
D.It was wet.
"""


def subject(name: str) -> list[dict[str, Any]]:
    """Rows of one of MMLU's subjects; their number differs, so that weights matter."""
    count = 1 + len(name) % 3
    common = {"subject": name, "choices": ["one", "two", "six", "ten"]}
    return [{"question": f"Question {i} of {name}? ", **common, "answer": (i + len(name)) % 4} for i in range(count)]


def rows_of(path: str, name: str | None) -> dict[str, list[dict[str, Any]]]:
    """Split -> rows of a hub data set."""
    if path == "cais/mmlu":
        assert name is not None
        return {"test": subject(name), "dev": subject("dev " + name)}
    if path == "SaylorTwift/bbh":
        assert name is not None
        return {"test": [{"input": f"A riddle about {name}?", "target": BBH_TARGETS.get(name, "(B)")}]}
    if path == "nyu-mll/glue":
        assert name is not None
        splits = {"train": GLUE[name], "validation": GLUE[name]}
        return {**splits, "validation_matched": GLUE[name], "validation_mismatched": GLUE[name][:2]}
    known = {
        ("allenai/ai2_arc", "ARC-Challenge"): {"train": ARC, "validation": ARC, "test": ARC},
        ("allenai/ai2_arc", "ARC-Easy"): {"train": ARC, "validation": ARC, "test": ARC},
        ("Rowan/hellaswag", None): {"train": HELLASWAG, "validation": HELLASWAG},
        ("truthfulqa/truthful_qa", "multiple_choice"): {"validation": TRUTHFULQA},
        ("Idavidrein/gpqa", "gpqa_diamond"): {"train": GPQA},
        ("allenai/winogrande", "winogrande_xl"): {"train": WINOGRANDE, "validation": WINOGRANDE},
        ("TAUR-Lab/MuSR", None): {
            "murder_mysteries": MUSR,
            "object_placements": MUSR[:2],
            "team_allocation": MUSR[1:],
        },
        ("wis-k/instruction-following-eval", None): {"train": IFEVAL},
    }
    return known[path, name]


def serve(asked: list[tuple[str, str | None, str | None]]) -> Callable[..., datasets.DatasetDict]:
    """A stand-in for datasets.load_dataset; notes path, subset and revision of each call."""

    def load_dataset(path: str, name: str | None = None, revision: str | None = None, **_: Any) -> datasets.DatasetDict:
        asked.append((path, name, revision))
        return datasets.DatasetDict({s: datasets.Dataset.from_list(rows) for s, rows in rows_of(path, name).items()})

    return load_dataset


def logiqa_file(folder: Path) -> Path:
    path = folder / "Test.txt"
    path.write_text(LOGIQA, encoding="utf-8")
    return path
