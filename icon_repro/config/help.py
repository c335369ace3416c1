"""What ``--help`` and ``--version`` print."""

import importlib.metadata
from pathlib import Path

from icon_repro.engine.run import git_state

HELP = """\
icon_repro: reproduce "ICon: In-Context Contribution for Automatic Data Selection" (arXiv 2505.05327) and compare
data-selection methods.

  python -m icon_repro                                 run the small experiment (experiment=smoke)
  python -m icon_repro experiment=llama31_8b           the paper's main setting
  python -m icon_repro experiment=NAME action=plan     what would run, what is cached, and about what it costs
  python -m icon_repro experiment=NAME action=fetch    models, data sets and benchmarks, for machines without a network
  python -m icon_repro experiment=NAME action=submit   send what is missing to Slurm (slurm/README.md)
  python -m icon_repro experiment=NAME action=status   what is running or failed, and where its log is
  python -m icon_repro experiment=NAME action=report   tables again, from stored results; explain=icon-0.15/piqa says
                                                       what a cell is made of
  python -m icon_repro action=verify                   every committed table made again and compared byte by byte
  python -m icon_repro experiment=NAME action=publish  results of a run (outputs/), verified, become committed ones
  python -m icon_repro action=diff A B                 what changed between two results folders, or a folder and a
                                                       commit of it (A=HEAD~1): settings, numbers, selections
  python -m icon_repro action=methods                  a line each with needs and cost; so models, data, benchmarks
  python -m icon_repro action=schema                   a JSON schema of all keys: an editor that has it in schema.json
                                                       checks files with # yaml-language-server: $schema=schema.json
  python -m icon_repro experiment=NAME action=prune    weights that nothing needs any more (keep=selected, keep=none)
  python -m icon_repro experiment=NAME action=compare  how the methods agree, with each other and with length; cost
  python -m icon_repro experiment=NAME action=export   selections and scores as data sets for a hub, and as Alpaca JSON

Change any value with key=value, any group with group=option:

  python -m icon_repro name=mine data.candidates.size=48 fractions=[0.05,0.15] seeds=[0,1,2]
  python -m icon_repro methods=[random,icon,less]      these methods; methods.less.epochs=2 sets a key of one
  python -m icon_repro methods.icon.control=none      remove the random control
  python -m icon_repro -m seed=0,1,2                  a sweep: an experiment for each training seed, <name>_s0 ...

  python -m icon_repro quiet=true                     warnings and failures alone; verbose=true: every step's folder too

A step is computed once: the same command again uses what is there, a changed value rebuilds what depends on it.

Groups and their options:
{groups}
Show the composed configuration: --cfg job. Meaning and range of every key: conf/README.md
"""


FETCHED = """\
All that this experiment reads from elsewhere is in {work}, in {cache} and in the hub's cache (HF_HOME, else
~/.cache/huggingface). A machine that sees these folders, or has copies of them, runs it with HF_HUB_OFFLINE=1."""


def version_text() -> str:
    """The version, and of a checkout its commit."""
    state = git_state(Path(__file__).parent)
    commit = f" ({state['commit'][:12]}{', changed' if state['dirty'] else ''})" if state["commit"] else ""
    return f"icon_repro {importlib.metadata.version('icon-repro')}{commit}"


def help_text(conf: Path) -> str:
    """What the command does, with examples, and the groups of ``conf`` with their options."""
    groups = sorted(path for path in conf.iterdir() if path.is_dir())
    options = {path.name: ", ".join(sorted(file.stem for file in path.glob("*.yaml"))) for path in groups}
    return HELP.replace("{groups}", "\n".join(f"  {name}: {names}" for name, names in options.items()))
