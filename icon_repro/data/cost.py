"""Estimate what a step costs before it runs, and count it after: tokens and floating point operations.

Source: Kaplan et al., arXiv 2001.08361, section 2.1: a forward pass takes 2 N operations a token, backward twice that.
Attention's own operations are left out (under 1 % at these lengths).
"""

CHARS_PER_TOKEN = 4.0  # English under byte-pair vocabularies; for estimates only
FULL_TRAINING = 3.0  # operations of training over those of a forward pass
FROZEN_TRAINING = 2.0  # with frozen weights (LoRA), whose gradients aren't made


def tokens_of(chars: float) -> float:
    """Estimated tokens of a text of ``chars`` characters."""
    return chars / CHARS_PER_TOKEN


def forward_flops(parameters: int, tokens: float) -> float:
    """Operations of a forward pass: 2 N a token."""
    return 2.0 * parameters * tokens


def training_flops(parameters: int, tokens: float, *, frozen: bool) -> float:
    """Operations of training: 6 N a token; 4 N if the weights are frozen (LoRA)."""
    return (FROZEN_TRAINING if frozen else FULL_TRAINING) * forward_flops(parameters, tokens)
