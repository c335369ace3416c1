"""What a command can do, and what it prints and keeps: choices that change no result."""

import enum


class Action(enum.Enum):
    run = "run"
    plan = "plan"
    submit = "submit"
    status = "status"
    report = "report"
    compare = "compare"
    export = "export"
    verify = "verify"
    publish = "publish"
    fetch = "fetch"  # models, data sets and benchmarks, on a machine with a network
    prune = "prune"
    methods = "methods"
    models = "models"
    data = "data"
    benchmarks = "benchmarks"
    schema = "schema"  # of experiment files, as JSON for editors
    diff = "diff"  # of two results folders: action=diff A B


class PlanDetail(enum.Enum):
    short = "short"  # by stage
    full = "full"  # each step too


class Keep(enum.Enum):
    """Which tuned weights stay once nothing in the experiment needs them any more."""

    all = "all"
    selected = "selected"  # those of models tuned on selections; not of one tuned on all rows, or for scoring
    none = "none"
