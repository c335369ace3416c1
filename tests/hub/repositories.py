"""What the hub of the tests holds: the repositories that conf/ names, under their ids and commits, laid out as there.

Models have the real architecture, dtype, sharding, tokenizer class and special tokens, with two layers of 32; data sets
have the real columns, configurations, splits and kinds of files, with rows of ours. All of it is made in memory.
Source: the files' names and columns as the libraries and lm-eval's tasks ask for them.
Models that only score rows are those of rehearsals (``icon_repro.data.random_models``) in the files of the real ones.
Known gap: sizes; ``.bin`` files.
"""

import csv
import io
import json
import random
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hub_server import Repository
from safetensors.torch import save
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from icon_repro.data.options import (
    Dtype,
    RandomArchitecture,
    RandomShape,
    RowFormat,
    SourceConfig,
    SourceKind,
    StandInRows,
)
from icon_repro.data.random_models import make_random
from icon_repro.data.stand_ins import stand_in_rows
from icon_repro.evaluate.requirements import task_files

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"initializer_range": 0.08}
Row = dict[str, Any]


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


# ---------------------------------------------------------------- models


def byte_level(special: Sequence[str], bos: str | None) -> Tokenizer:
    """A BPE of single bytes with special tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in special])
    if bos:
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    return tokenizer


def pieces() -> Tokenizer:
    """As Llama 2's: pieces of one character with a mark for spaces, and bytes for the others."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *(chr(code) for code in range(33, 127))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in tokens[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def weights(model: PreTrainedModel, dtype: torch.dtype, parts: int) -> dict[str, bytes]:
    """Safetensors in shards with their index; a tied head isn't stored."""
    state = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    names, files, places = sorted(state), dict[str, bytes](), dict[str, str]()
    for part in range(parts):
        own = names[part::parts]
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        files[file] = save({name: state[name] for name in own}, metadata={"format": "pt"})
        places |= dict.fromkeys(own, file)
    size = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    return {**files, "model.safetensors.index.json": as_json(index)}


def model_files(
    tokenizer: Tokenizer, tokenizer_config: Row, model: PreTrainedModel, dtype: str, parts: int, generation: Row
) -> dict[str, bytes]:
    config = {**model.config.to_dict(), "torch_dtype": dtype, "architectures": [type(model).__name__]}
    config.pop("dtype", None)
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"---\nlicense: other\n---\nA stand-in.\n",
        "config.json": as_json(config),
        "generation_config.json": as_json(generation),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": as_json(tokenizer_config),
        **weights(model, getattr(torch, dtype), parts),
    }


def llama31() -> Repository:
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    tokenizer = byte_level([bos, eos, "<|finetune_right_pad_id|>", "<|eot_id|>"], bos)
    ids = {"bos_token_id": tokenizer.token_to_id(bos), "eos_token_id": tokenizer.token_to_id(eos)}
    rope = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    torch.manual_seed(1)
    config = LlamaConfig(
        **SHAPE,
        **ids,
        num_key_value_heads=2,
        max_position_embeddings=131072,
        rope_scaling={**rope, "rope_type": "llama3"},
        rope_theta=500000.0,
        tie_word_embeddings=False,
        vocab_size=tokenizer.get_vocab_size(),
    )
    settings = {"bos_token": bos, "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {"model_max_length": 131072, "clean_up_tokenization_spaces": True}
    generation = {"_from_model_config": True, **ids, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    files = model_files(tokenizer, settings, LlamaForCausalLM(config), "bfloat16", 4, generation)
    files["original/consolidated.00.pth"] = bytes(4096)  # what the model's other format takes there
    commit = "d04e592bb4f6aa9cfee91e2e20afa771667e1d4b"
    return Repository("model", "meta-llama/Llama-3.1-8B", commit, files, gated=True)


def llama2() -> Repository:
    tokenizer = pieces()
    torch.manual_seed(2)
    config = LlamaConfig(
        **SHAPE,
        bos_token_id=1,
        eos_token_id=2,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        vocab_size=tokenizer.get_vocab_size(),
    )
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    settings |= {"add_bos_token": True, "add_eos_token": False, "legacy": False}
    # as published: a temperature without sampling, which transformers refuses to save
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}
    files = model_files(tokenizer, settings, LlamaForCausalLM(config), "float16", 2, generation)
    commit = "01c7f73d771dfac7d292323805ebc428287df4f9"
    return Repository("model", "meta-llama/Llama-2-7b-hf", commit, files, gated=True)


def qwen25() -> Repository:
    end = "<|endoftext|>"
    tokenizer = byte_level([end, "<|im_start|>", "<|im_end|>"], None)
    torch.manual_seed(3)
    ids = {"bos_token_id": tokenizer.token_to_id(end), "eos_token_id": tokenizer.token_to_id(end)}
    config = Qwen2Config(
        **SHAPE,
        **ids,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        vocab_size=tokenizer.get_vocab_size() + 29,  # padded to a round number, as the real one
    )
    settings = {"bos_token": None, "eos_token": end, "pad_token": end, "tokenizer_class": "Qwen2Tokenizer"}
    settings |= {"add_prefix_space": False, "model_max_length": 131072, "unk_token": None}
    generation = {**ids, "max_new_tokens": 2048, "do_sample": False}
    files = model_files(tokenizer, settings, Qwen2ForCausalLM(config), "bfloat16", 2, generation)
    vocabulary = json.loads(files["tokenizer.json"])["model"]["vocab"]
    files |= {"vocab.json": as_json(vocabulary), "merges.txt": b"#version: 0.2\n"}
    return Repository("model", "Qwen/Qwen2.5-3B", "3aab1f1954e9cc14eb9509a215f9e5ca08227a9b", files)


def gpt2() -> Repository:
    """Weights as its authors saved them: without the prefix of the whole model, with the masks of attention."""
    end = "<|endoftext|>"
    tokenizer = byte_level([end], None)
    torch.manual_seed(4)
    size = tokenizer.get_vocab_size()
    config = GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, bos_token_id=size - 1, eos_token_id=size - 1)
    model = GPT2LMHeadModel(config)
    state = {name.removeprefix("transformer."): value.contiguous() for name, value in model.state_dict().items()}
    state.pop("lm_head.weight")
    mask = torch.tril(torch.ones(config.n_positions, config.n_positions))[None, None]
    state |= {f"h.{layer}.attn.bias": mask.clone() for layer in range(config.n_layer)}
    ids = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    files = model_files(tokenizer, {"model_max_length": 1024}, model, "float32", 1, {"_from_model_config": True, **ids})
    files = {name: content for name, content in files.items() if not name.startswith("model")}
    files["model.safetensors"] = save(state, metadata={"format": "pt"})
    vocabulary = json.loads(files["tokenizer.json"])["model"]["vocab"]
    files |= {"vocab.json": as_json(vocabulary | {end: size - 1}), "merges.txt": b"#version: 0.2\n"}
    return Repository("model", "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", files)


def scorer(name: str, commit: str, shape: RandomShape, config: Row | None = None, **more: Any) -> Repository:
    """A model that scores rows or embeds them.

    Args:
        config: what else its config.json holds.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_random(shape, Path(folder) / "model")
        files = {path.name: path.read_bytes() for path in (Path(folder) / "model").iterdir()}
    files["config.json"] = as_json({**json.loads(files["config.json"]), **(config or {})})
    files["README.md"] = b"A stand-in.\n"
    return Repository("model", name, commit, files, **more)


def scorers() -> list[Repository]:
    """What methods take to score and to embed rows."""
    encoder = RandomShape(architecture=RandomArchitecture.encoder, max_positions=512, dtype=Dtype.float32)
    minilm = "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    pull = "5" * 40  # the weights of the second one are safetensors in a pull request only
    deita = "hkust-nlp/deita-complexity-scorer", "6dc6155fb299dc88668872fd2ebeb00aaa792948"
    causal = RandomShape(bos=True, dtype=Dtype.float16, seed=5)
    end = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    gated = RandomShape(architecture=RandomArchitecture.gated, chat_end=end, dtype=Dtype.bfloat16)
    armorm = "RLHFlow/ArmoRM-Llama3-8B-v0.1", "eb2676d20da2f2d41082289d23c59b9f7427f955"
    code = {"architectures": ["LlamaForRewardModelWithGating"]}
    code["auto_map"] = {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}
    found = [
        gpt2(),
        scorer(*minilm, encoder),
        scorer(*deita, causal),
        scorer("hkust-nlp/deita-quality-scorer", pull, causal, refs={"refs/pr/3": pull}),
        scorer(*armorm, gated, code),
    ]
    found[1].files |= {"modules.json": b"[]", "1_Pooling/config.json": b"{}"}
    found[-1].files["modeling_custom.py"] = b"raise SystemExit('code of a model is never run')\n"
    return found


# ---------------------------------------------------------------- data sets


def texts(count: int, seed: int) -> list[Row]:
    source = SourceConfig(SourceKind.stand_in, RowFormat.alpaca, "s", stand_in=StandInRows(count, seed))
    return [row for _, row in stand_in_rows(source)]


def parquet(rows: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def as_csv(rows: Sequence[Row]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def card(configs: Sequence[Row]) -> bytes:
    return f"---\nconfigs: {json.dumps(list(configs))}\n---\nA stand-in.\n".encode()


def by_config(configs: Mapping[str, Mapping[str, Sequence[Row]]]) -> dict[str, bytes]:
    """Parquet files of configurations and their splits, as the hub's converted data sets have them."""
    files, listed = dict[str, bytes](), list[Row]()
    for name, splits in configs.items():
        folder = "data" if name == "default" else name
        for split, rows in splits.items():
            files[f"{folder}/{split}-00000-of-00001.parquet"] = parquet(rows)
        paths = [{"split": split, "path": f"{folder}/{split}-*"} for split in splits]
        listed.append({"config_name": name, "data_files": paths})
    return {**files, "README.md": card(listed)}


def alpaca() -> Repository:
    rows = []
    for row in texts(160, 1):
        text = f"{row['instruction']}\n{row['response']}"
        parts = {"instruction": row["instruction"], "input": row["input"], "output": row["response"]}
        rows.append({**parts, "text": text})
    rows[3]["output"] = ""  # as 28 rows of the real one
    rows[5]["input"] = "https://example.org/page"
    name = "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"
    files = {name: parquet(rows), "README.md": card([{"config_name": "default", "data_files": "data/train-*"}])}
    return Repository("dataset", "tatsu-lab/alpaca", "dce01c9b08f87459cf36a430d809084718273017", files)


def wizardlm() -> Repository:
    rows = [{"output": row["response"], "instruction": row["instruction"]} for row in texts(120, 2)]
    files = {"alpaca_evol_instruct_70k.json": as_json(rows), "README.md": b"Training data.\n"}
    commit = "c8e40b2d5d67d35e47c9fe0d624dff93defb4c84"
    return Repository("dataset", "WizardLMTeam/WizardLM_evol_instruct_70k", commit, files)


def words(seed: int, count: int = 5) -> str:
    known = ("red", "harbour", "seven", "needle", "garden", "slowly", "kettle")
    return " ".join(random.Random(seed).choices(known, k=count))


def splits(names: Sequence[str], make: Callable[[int], Row], rows: int = 5) -> dict[str, list[Row]]:
    return {name: [make(100 * place + i) for i in range(rows)] for place, name in enumerate(names)}


def gpqa() -> Repository:
    columns = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
    columns += ["Explanation", "Subdomain", "Record ID", "High-level domain", "Canary String"]
    names = ("gpqa_extended", "gpqa_main", "gpqa_diamond")
    rows = [{column: words(i * 31 + k) for k, column in enumerate(columns)} for i in range(5)]
    tables = {f"{name}.csv": as_csv(rows) for name in names}
    files = {**tables, "README.md": card([{"config_name": name, "data_files": f"{name}.csv"} for name in names])}
    return Repository("dataset", "Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", files, gated=True)


def arc() -> Repository:
    def row(i: int) -> Row:
        labels = ["A", "B", "C", "D"] if i % 3 else ["1", "2", "3", "4"]
        choices = {"text": [words(4 * i + k, 2) for k in range(4)], "label": labels}
        return {"id": f"Mercury_{i}", "question": words(i), "choices": choices, "answerKey": labels[i % 4]}

    both = {name: splits(("train", "test", "validation"), row) for name in ("ARC-Challenge", "ARC-Easy")}
    return Repository("dataset", "allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", by_config(both))


def hellaswag() -> Repository:
    def row(i: int) -> Row:
        a, b = words(i, 6), words(i + 1, 3)
        texts_of = {"activity_label": "Washing", "ctx_a": a, "ctx_b": b, "ctx": f"{a} {b}"}
        endings = [f"{words(5 * i + k)} [title] x" for k in range(4)]
        return {"ind": i, **texts_of, "endings": endings, "source_id": f"v_{i}", "split": "x", "label": str(i % 4)}

    files = by_config({"default": splits(("train", "test", "validation"), row)})
    return Repository("dataset", "Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", files)


def truthfulqa() -> Repository:
    def row(i: int) -> Row:
        one = {"choices": [words(7 * i + k) for k in range(3)], "labels": [1, 0, 0]}
        more = {"choices": [words(9 * i + k) for k in range(5)], "labels": [1, 1, 0, 0, 0]}
        return {"question": words(i), "mc1_targets": one, "mc2_targets": more}

    files = by_config({"multiple_choice": splits(("validation",), row)})
    return Repository("dataset", "truthfulqa/truthful_qa", "741b8276f2d1982aa3d5b832d3ee81ed3b896490", files)


def winogrande() -> Repository:
    def row(i: int) -> Row:
        sentence = f"Sarah thanked Maria because _ {words(i)}."
        return {"sentence": sentence, "option1": "Sarah", "option2": "Maria", "answer": str(1 + i % 2)}

    names = ("winogrande_xs", "winogrande_xl", "winogrande_debiased")
    files = by_config({name: splits(("train", "test", "validation"), row) for name in names})
    return Repository("dataset", "allenai/winogrande", "01e74176c63542e6b0bcb004dcdea22d94fb67b5", files)


def musr() -> Repository:
    kinds = {"murder_mysteries": "murder_mystery", "object_placements": "object_placements"}
    kinds |= {"team_allocation": "team_allocation"}
    files = {}
    for place, name in enumerate(kinds.values()):
        rows = []
        for i in range(4):
            choices = [words(17 * i + k + place, 2) + f" {k}" for k in range(2 if place == 0 else 3)]
            answer = {"answer_index": i % len(choices), "answer_choice": choices[i % len(choices)]}
            rows.append({"narrative": words(i, 30), "question": words(i + 9), "choices": repr(choices), **answer})
        files[f"{name}.csv"] = as_csv(rows)
    paths = [{"split": split, "path": f"{name}.csv"} for split, name in kinds.items()]
    files["README.md"] = card([{"config_name": "default", "data_files": paths}])
    return Repository("dataset", "TAUR-Lab/MuSR", "7c365b439a222150f317764d4f16ae6c96d7d94a", files)


def ifeval() -> Repository:
    """Rows that need no splitter of sentences; the settings of every kind of instruction stand in each."""
    empty = dict.fromkeys(("num_sentences", "relation", "keywords", "num_words"))
    rows = []
    for i in range(4):
        kinds = ["punctuation:no_comma", "keywords:existence"][: 1 + i % 2]
        settings = [empty, {**empty, "keywords": ["lamp"]}][: len(kinds)]
        rows.append({"key": i, "prompt": words(i), "instruction_id_list": kinds, "kwargs": settings})
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    files = {"ifeval_input_data.jsonl": lines, "README.md": b"A stand-in.\n"}
    commit = "5a5661c2a35488308556cf4453dc074d1eba91a0"
    return Repository("dataset", "wis-k/instruction-following-eval", commit, files)


def glue() -> Repository:
    pair, question = ("sentence1", "sentence2"), ("question", "sentence")
    columns: dict[str, tuple[str, ...]] = {"cola": ("sentence",), "sst2": ("sentence",), "mrpc": pair, "rte": pair}
    columns |= {"wnli": pair, "qnli": question, "qqp": ("question1", "question2"), "mnli": ("premise", "hypothesis")}

    def row(i: int, task: str) -> Row:
        parts = {column: words(3 * i + k) for k, column in enumerate(columns[task])}
        return {**parts, "label": i % (3 if task == "mnli" else 2), "idx": i}

    configs = {}
    for task in columns:
        ends = ("_matched", "_mismatched") if task == "mnli" else ("",)
        names = ["train", *(f"{split}{end}" for split in ("validation", "test") for end in ends)]
        configs[task] = splits(names, partial(row, task=task))
    files = by_config(configs)
    return Repository("dataset", "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", files)


def subsets(group: str) -> list[str]:
    """Names of the data sets that the tasks beside an lm-eval group read."""
    (path, *_) = task_files()[group]
    texts_of = [file.read_text(encoding="utf-8") for file in Path(path).parent.glob("*.yaml")]
    names = {
        match[1] for text in texts_of if (match := re.search(r"^[\"']?dataset_name[\"']?: *[\"']?(\w+)", text, re.M))
    }
    return sorted(names)


def mmlu() -> Repository:
    def row(i: int, subject: str) -> Row:
        choices = [words(4 * i + k, 2) for k in range(4)]
        return {"question": words(i), "subject": subject, "choices": choices, "answer": i % 4}

    names = ("test", "validation", "dev")
    both = {subject: splits(names, partial(row, subject=subject)) for subject in subsets("mmlu")}
    return Repository("dataset", "cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", by_config(both))


def bbh() -> Repository:
    """Tasks with two answers have those of their kind; the right ones of the others are letters."""
    known = {"boolean_expressions": "True", "causal_judgement": "Yes", "formal_fallacies": "valid", "navigate": "No"}
    known |= {"object_counting": "5", "sports_understanding": "yes", "web_of_lies": "No"}

    def row(i: int, task: str) -> Row:
        return {"input": f"{words(i, 9)}?", "target": known.get(task, "(B)")}

    both = {task: splits(("test",), partial(row, task=task)) for task in subsets("leaderboard_bbh")}
    return Repository("dataset", "SaylorTwift/bbh", "b5306be6f827cfafbb545ff5a51f96916029b0fd", by_config(both))


def everything() -> list[Repository]:
    sets = [alpaca(), wizardlm(), gpqa(), arc(), hellaswag(), truthfulqa(), winogrande(), musr()]
    return [llama31(), llama2(), qwen25(), *scorers(), *sets, ifeval(), glue(), mmlu(), bbh()]


def logiqa(path: Path) -> Path:
    """LogiQA's file, which isn't on the hub."""
    blocks = []
    for i in range(6):
        options = [f"{letter}.{words(3 * i + k)}." for k, letter in enumerate("ABCD")]
        blocks.append("\n".join(["abcd"[i % 4], f"{words(i, 12)}.", f"{words(i + 50)}?", *options]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path
