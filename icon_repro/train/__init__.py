"""Instruction tuning on selected rows."""
