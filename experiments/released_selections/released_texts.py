"""What a row asks for, by simple rules: the first word as a verb and the head of the noun phrase after it.

In: an instruction.  Out: a pair (verb, noun), either may be "".  Also: texts and words in a normal form.
Source: the verb-noun pairs of Self-Instruct (arXiv 2212.10560), which takes root verb and direct object from a parser.
Differs: no parser and no tagger. An instruction is read as an imperative; politeness, "I want you to" and an opening
clause that ends in a comma ("Given the text, ...") are skipped; the noun is the last word before the next preposition,
conjunction, relative or punctuation mark. Questions have their question word in the verb's place.
Known gap: words that follow their noun without such a mark stand in its place, compounds lose their first part, and no
word is checked to be a verb. How often the rules are right on a sample read by hand: experiments/released_selections.
"""

import re

_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*|[^\w\s]")
_WORD = re.compile(r"[^\W_]+")


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POLITE = _set("please kindly now then first next also hey hi hello just")
_ASKED = re.compile(
    r"^(?:(?:can|could|would|will) you|(?:i|we)(?:'d| would)? (?:need|want|like) you to|(?:your|the) task is to|help me"
    r"|you (?:are|need|have) (?:asked |required )?to)\b\s*",
)
_OPENERS = _set("given using based in for from with if as by considering suppose assuming imagine when after on to")
QUESTIONS = _set(
    "what how why when where which who whose whom is are am do does did was were can could should would will"
)
_PASSED = _set(
    "a an the this that these those some any each every all both my your his her its our their me us you him it "
    "them one ones two three four five six seven eight nine ten following given below above provided more most "
    "least at several many few up out down off through over into is are was were be been being do does did can "
    "could should would will another other different such no not only own new as much same"
)
_BREAKS = _set(
    "of to for in on with from about between by into onto against without within during after before than like "
    "under and or but so because while if whether that which who whom whose what when where why how using based "
    "containing called named involving including regarding describing explaining related consisting featuring "
    "inspired titled entitled as is are was were be being has have had can could should would will may must does "
    "do did i you he she we they it including via per across among around through given following according up "
    "the a an my your his her its our their this these"
)
_ING = _set(  # nouns, and adjectives before one; other words in -ing or -ed after a noun begin a clause about it
    "learning marketing networking planning training processing engineering programming writing reading meeting "
    "building setting housing banking warming shopping cooking hiking camping clothing gaming recycling thinking "
    "understanding ending spelling pricing advertising branding farming parking running wedding morning evening "
    "thing king string spring ring computing testing painting drawing speaking listening working manufacturing "
    "mining interesting heading greeting saying wing being"
)
_JOINED = _set("and or &")
_LONGEST_PHRASE = 6  # words of a noun phrase


def words(text: str) -> tuple[str, ...]:
    """Lower-cased runs of letters and digits: texts with the same ones differ in case, spacing and punctuation only."""
    return tuple(_WORD.findall(text.lower()))


def verb_noun(instruction: str) -> tuple[str, str]:
    """The verb and the noun that an instruction starts with; "" where the rules find none."""
    tokens = _imperative(instruction)
    if not tokens or not tokens[0][0].isalpha():
        return "", ""
    verb, rest = tokens[0], tokens[1:]
    if rest and rest[0] in _JOINED | {","} and verb not in QUESTIONS:  # compare and contrast
        rest = rest[2:]
    while rest and (rest[0] in _PASSED or rest[0].isdigit() or rest[0] in {'"', "“"}):
        rest = rest[1:]
    phrase = list[str]()
    for token in rest[:_LONGEST_PHRASE]:
        if not token[0].isalnum() or token in _BREAKS or (phrase and _clause(token)):
            break
        phrase.append(token)
    return verb, singular(phrase[-1]) if phrase else ""


def _clause(word: str) -> bool:
    """Whether a word after a noun begins a clause about it: an email inviting ..., the figure mentioned ..."""
    return len(word) > 4 and (word.endswith("ing") or word.endswith("ed")) and word not in _ING


def _imperative(instruction: str) -> list[str]:
    """Lower-cased tokens from the first word that may be the verb."""
    text = instruction.lower().lstrip(" \t\n\"'“”‘’*#-•:.")
    text = _ASKED.sub("", text)
    tokens: list[str] = _TOKEN.findall(text)
    while tokens and tokens[0] in _POLITE | {","}:
        tokens = tokens[1:]
    if tokens and tokens[0] in _OPENERS and "," in tokens:
        after = tokens[tokens.index(",") + 1 :]
        while after and after[0] in _POLITE:
            after = after[1:]
        if after and after[0].isalpha():
            return after
    return tokens


def singular(noun: str) -> str:
    """A noun without the ending of its plural, by rules."""
    if len(noun) > 4 and noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("sses", "shes", "ches", "xes", "zes")):
        return noun[:-2]
    if len(noun) > 3 and noun.endswith("s") and not noun.endswith(("ss", "us", "is")):
        return noun[:-1]
    return noun
