"""Set the paper's numbers and claims beside ours."""
