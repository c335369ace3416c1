"""Name the steps of ICon: function and version, by name, as torch is too heavy for a plan."""

STEPS = {
    "dtype": ("icon_repro.methods.icon.fidelity:run", 1),
    "baseline": ("icon_repro.methods.icon.pairs:baseline", 2),
    "bank": ("icon_repro.methods.icon.pairs:bank", 1),
    "shard": ("icon_repro.methods.icon.pairs:shard", 1),
    "control": ("icon_repro.methods.icon.pairs:control_shard", 1),
    "start": ("icon_repro.methods.icon.rounds:start", 1),
    "round": ("icon_repro.methods.icon.rounds:decide", 1),
    "scores": ("icon_repro.methods.icon.score:run", 2),
    "adaptive": ("icon_repro.methods.icon.score:adaptive", 1),
    # budget=auto; took candidates and rows from a pilot block before, and was adaptive then
    "own": ("icon_repro.methods.icon.pairs:own_shard", 1),
    "features": ("icon_repro.methods.icon.auto:features", 1),
    "few_rows": ("icon_repro.methods.icon.auto:rows", 1),
    "few_start": ("icon_repro.methods.icon.auto:start", 1),
    "few_round": ("icon_repro.methods.icon.auto:decide", 1),
    "few_scores": ("icon_repro.methods.icon.auto:scores", 1),
    "pool_pilot": ("icon_repro.methods.icon.auto_pool:pilot", 1),
    "pool_start": ("icon_repro.methods.icon.auto_pool:start", 1),
    "pool_scores": ("icon_repro.methods.icon.auto_pool:scores", 1),
    "selector": ("icon_repro.methods.icon.selector:train", 1),
    "selector_pool": ("icon_repro.methods.icon.selector:pool", 1),
    # 2: hidden states in bfloat16 by default
    "probe": ("icon_repro.methods.icon.probe:train", 2),
    "probe_pool": ("icon_repro.methods.icon.probe:pool", 2),
    "selector_scores": ("icon_repro.methods.icon.selector:run", 1),
    "probe_scores": ("icon_repro.methods.icon.probe_scores:run", 1),
    "probe_near": ("icon_repro.methods.icon.probe_scores:near", 1),
}
