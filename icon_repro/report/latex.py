"""Write a table as LaTeX, to be taken into a paper with ``\\input``.

In: header and cells as text.  Out: a ``table*`` as wide as the page; needs the packages booktabs and graphicx.
Known gap: a table longer than a page is made smaller, not split.
"""

from collections.abc import Sequence

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "[": "{[}",  # after the end of a row it would be read as an option of it
    "]": "{]}",
    "*": "{*}",
    "`": "{`}",
    '"': "''",
    "|": r"$|$",
}


class LatexError(ValueError):
    """A table that LaTeX can't typeset."""


def latex(
    header: Sequence[str], cells: Sequence[Sequence[str]], caption: str, label: str, rules: Sequence[int] = ()
) -> str:
    """The table; cells that start with a digit or a sign are right-aligned by column.

    Args:
        label: letters, digits and ``:.-`` only, as a ``\\ref`` names it.
        rules: numbers of rows before which a thin line stands.

    Raises:
        LatexError: a row has another number of cells than the header, or a text has a sign outside ASCII and ±.
    """
    for number, row in enumerate(cells):
        if len(row) != len(header):
            raise LatexError(f"{label}: row {number} has {len(row)} cells, the header {len(header)}.")
    columns = "".join(_alignment([row[i] for row in cells]) for i in range(len(header)))
    lines = [
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        "\\begin{table*}[tbp]",
        "\\centering",
        f"\\caption{{{escaped(caption)}}}",
        f"\\label{{{label}}}",
        "\\resizebox{\\textwidth}{!}{%",
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        "\\toprule",
        _row(header),
        "\\midrule",
    ]
    for number, row in enumerate(cells):
        lines += ["\\midrule"] if number in rules and number > 0 else []
        lines.append(_row(row))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}%", "}", "\\end{table*}"]) + "\n"


def escaped(text: str) -> str:
    """``text`` as LaTeX typesets it.

    Raises:
        LatexError: a sign outside ASCII that isn't known here.
    """
    if unknown := sorted({sign for sign in text if not sign.isascii() and sign not in _SIGNS}):
        raise LatexError(f"{text!r}: {unknown[0]!r} isn't ASCII and has no LaTeX form here. Use another sign.")
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escaped(cell) for cell in cells) + " \\\\"


def _alignment(column: Sequence[str]) -> str:
    numbers = [cell for cell in column if cell not in ("", "-", "missing")]
    return "r" if numbers and all(cell[:1].isdigit() or cell[:1] in "+-[" for cell in numbers) else "l"
