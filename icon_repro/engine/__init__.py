"""The engine plans, runs and stores steps. It knows nothing about machine learning."""
