"""Compare two models' answers to the same prompts in pairs, judged in both orders."""
