"""The experiment engine: fingerprints, plan, run. Holds no machine learning."""
