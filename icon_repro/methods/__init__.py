"""Select rows: each method gives the candidates scores. One module a method."""
