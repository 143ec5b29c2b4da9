"""Sentences of everyday words from a small random grammar."""

from __future__ import annotations

import numpy as np

_DETERMINERS = "the|a|this|that|every|another|some|our|your|their|my|her|his"
_ADJECTIVES = (
    "small|green|old|quiet|heavy|bright|narrow|empty|warm|cold|young|clever|broken|yellow|"
    "simple|strange|early|busy|gentle|wooden|careful|round|open|dark|silver|lazy|proud"
)
_NOUNS = (
    "boat|teacher|garden|window|letter|river|engine|doctor|bridge|kitchen|neighbour|story|"
    "market|station|mountain|bicycle|picture|hammer|basket|singer|village|machine|question|"
    "pencil|farmer|captain|jacket|summer|island|library|number|horse|valley|dinner|shoulder"
)
_VERBS = (
    "watched|carried|followed|painted|moved|answered|opened|repaired|remembered|noticed|"
    "borrowed|finished|visited|pushed|found|bought|measured|described|covered|joined|chose|"
    "understood|brought|held|studied"
)
_ADVERBS = (
    "slowly|again|quickly|once more|very often|together|yesterday|carefully|for nothing|"
    "suddenly|too early|without warning|this evening|on purpose|twice|as usual"
)
_PLACES = (
    "near the harbour|behind the house|under the table|at the corner|beyond the hills|"
    "along the road|in the middle of town|beside the fire|over the water|across the field|"
    "inside the tower|between the trees"
)
_LINKS = "and|but|because|while|although|so|when|after|until|since"
_OPENERS = (
    "last week|in the morning|for a long time|after the rain|as far as I know|by the way|"
    "most of the time|on the other hand|later that year|without a word|once or twice|at first"
)


def _pick(random: np.random.Generator, words: str) -> str:
    return str(random.choice(words.split("|")))


def _thing(random: np.random.Generator) -> str:
    words = [_pick(random, _DETERMINERS)]
    words += [_pick(random, _ADJECTIVES) for _ in range(random.choice(3, p=[0.3, 0.5, 0.2]))]
    return " ".join([*words, _pick(random, _NOUNS)])


def _clause(random: np.random.Generator) -> str:
    parts = [_thing(random), _pick(random, _VERBS), _thing(random)]
    if random.random() < 0.4:
        parts.append(_pick(random, _PLACES))
    if random.random() < 0.4:
        parts.append(_pick(random, _ADVERBS))
    return " ".join(parts)


def draw_sentence(random: np.random.Generator, num_words: int) -> str:
    """Draw a sentence of at least ``num_words`` words."""
    text = _clause(random)
    if random.random() < 0.3:
        text = f"{_pick(random, _OPENERS)}, {text}"
    while len(text.split()) < num_words:
        text = f"{text}, {_pick(random, _LINKS)} {_clause(random)}"
    return text
