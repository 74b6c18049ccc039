"""Numbers, dates, amounts, units, addresses and capitals as the words that are spoken, for English and Chinese.

F5-TTS was trained on written-out text and guesses at digits. What no rule claims is left as it is.
"""

# ruff: noqa: SIM905 - lists of words read better as text

from __future__ import annotations

import re

from f5_worker import chinese, english
from f5_worker.rewrite import Rewritten, Rule, apply

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3041-\u30fa]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
_NEAR_CHARS = 12  # how far around a number its language is looked for
_PHRASE_CHARS = 40
# Frequent words that tell English from other languages in the Latin script.
_ENGLISH = frozenset(
    """
    the and of to in is it that was for are with as at be this have from or by not but what all were we you he she my your his they
    them their our us would could should did does been there these those when how why who than then some please here about into years I
    """.split()
)
_OTHERS = frozenset(
    re.findall(
        r"\w+",
        """der die das und ist nicht ein eine den dem von mit auf es im zu le la les et est un une des du que qui pas pour dans el los las
        y en por con una se il che non per di della sono o os uma não het een van dat nie jest się na og er det att och är ve bir bu
        ich wir ihr sie habe haben sind je j tu nous vous ils elle elles suis sont avec tengo tiene somos está muy pero ho hai abbiamo lui
        gli sono mam masz mamy mają jestem są tak saya anda kami kita dia yang di ini itu ada punya tidak minulla sinulla minä olen ovat ei
        että ik heb heeft zij wij maar ook jag jeg har ikke inte tenho tem ele ela nós são mais nekem és nem benim senin onun yok değil sunt
        și mám mají máme jsem jsou ja""",
    )
)
# A heading or a paragraph without a mark ends like a sentence.
_PARAGRAPH: Rule = (re.compile(r"(?<=\w)(?=\n\n)"), lambda match: "\u3002" if _HAN.match(match.string, match.start() - 1) else ".")


def normalise(text: str, language: str | None = None) -> Rewritten:
    """The text as it is spoken; see rules_for."""
    return apply(text, rules_for(text, language))


def rules_for(text: str, language: str | None = None) -> list[Rule]:
    """The rules that make the text, or a part of it, what is spoken.

    Args:
        language: `en`, `zh`, another code (numbers are left alone) or None to tell by the text.
    """
    code = (language or "").lower().partition("-")[0]
    if code == "zh":
        return [*chinese.RULES, *english.RULES, _PARAGRAPH]
    if code == "en" or (not code and not _HAN.search(text) and looks_english(text)):
        return [*english.RULES, _PARAGRAPH]
    if code or not looks_chinese(text):
        return [_PARAGRAPH]
    mostly_han = _mostly_han(text)
    near_han = [_only_near_han(rule, mostly_han=mostly_han) for rule in chinese.RULES]
    return [*near_han, *(english.RULES if looks_english(text) else []), _PARAGRAPH]


def looks_english(text: str) -> bool:
    """Whether the Latin part of the text is English, as far as its frequent words tell."""
    words = _latin_words(text)
    foreign_letters = sum(word.isalpha() and not word.isascii() for word in words)  # m² and ½ are no letters
    english_words, others = _evidence(words)
    return english_words >= others and foreign_letters * 10 <= len(words)


def is_guess(text: str) -> bool:
    """Whether a text that looks English has as many words that say so as words of other languages, maybe none."""
    words = _latin_words(text)
    english_words, others = _evidence(words)
    return english_words == others and len(words) > 1 and not _HAN.search(text) and looks_english(text)


def _latin_words(text: str) -> list[str]:
    """In small letters but for "I": "i" is a word of Italian and Polish."""
    return [word if word == "I" else word.lower() for word in _WORD.findall(_HAN.sub(" ", text))]


def _evidence(words: list[str]) -> tuple[int, int]:
    """How many words are frequent in English and how many in the other languages."""
    return sum(word in _ENGLISH for word in words), sum(word in _OTHERS for word in words)


def looks_chinese(text: str) -> bool:
    """Whether the text has Chinese characters and is not Japanese."""
    han, kana = len(_HAN.findall(text)), len(_KANA.findall(text))
    return han > 0 and kana * 10 <= han


def _mostly_han(text: str) -> bool:
    return 2 * len(_HAN.findall(text)) >= len(_WORD.findall(_HAN.sub(" ", text)))


def _only_near_han(rule: Rule, *, mostly_han: bool) -> Rule:
    """The rule for what a Chinese speaker would read: a Chinese character is next to it, or no English words are."""
    pattern, speak = rule

    def near(match: re.Match[str]) -> str | None:
        text, (start, end) = match.string, match.span()
        before = _LETTER.findall(text, max(0, start - _NEAR_CHARS), start)[-1:]
        after = _LETTER.findall(text, end, end + _NEAR_CHARS)[:1]
        if any(_HAN.search(letter) for letter in (match[0], *before, *after)):
            return speak(match)
        phrase = _HAN.split(text[max(0, start - _PHRASE_CHARS) : start])[-1] + " " + _HAN.split(text[end : end + _PHRASE_CHARS])[0]
        english_words = any(word.lower() in _ENGLISH for word in _WORD.findall(phrase))
        return speak(match) if mostly_han and not english_words else None

    return pattern, near
