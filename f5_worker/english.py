"""English: rules for what is not written as it is said, in the order in which they claim their part of the text."""

# ruff: noqa: RUF001, SIM905 - other dashes, quotes and signs are meant; lists of words read better as text

from __future__ import annotations

import re
from collections.abc import Iterable

from f5_worker.english_dates import DATE_RULES
from f5_worker.english_forms import (
    ADDRESS_MARKS,
    LABELS,
    LITERALS,
    NUMBERED,
    PER,
    REGAL,
    SCALES,
    SHORTENED,
    TITLES,
    UNITS,
    VULGAR,
)
from f5_worker.english_money import MONEY_RULES
from f5_worker.english_numbers import AMOUNT, MINUS, NUMBER, ONE, START, cardinal, code, digits, number, ordinal, pairs, plural, with_stop
from f5_worker.english_signs import FIRST_SIGN_RULES, SIGN_RULES
from f5_worker.rewrite import Rule, follows_name
from f5_worker.shouting import CAPITALS

Match = re.Match[str]


def _any(forms: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))


def _signed(match: Match) -> str:
    return "minus " if match["minus"] else ""


def _unit(match: Match) -> str | None:
    one, many = UNITS.get(match["unit"], ("inch", "inches"))
    if match["unit"] == "s" and not match["gap"]:  # the 5s is a name
        return None
    single = match["number"] == "1" or match["gap"] == "-" or match["one"] is not None
    return f"{_signed(match)}{number(with_stop(match['number']))} {one if single else many}"


def _fraction(match: Match) -> str | None:
    whole, unit = match["whole"], UNITS.get(match["unit"] or "")
    top, bottom = map(int, (match["top"], match["bottom"]) if match["top"] else VULGAR[match["vulgar"]].split("/"))
    if whole is None and match["top"] and (top == bottom or (top > 1 and bottom in {10, 100})):
        return f"{cardinal(top)} out of {cardinal(bottom)}"  # 8/10 is a mark
    if bottom < 2 or (whole and top >= bottom):
        return None
    if bottom > 10 and bottom not in _PARTS:
        return f"{cardinal(top)} over {cardinal(bottom)}"
    part = {2: "half", 4: "quarter"}.get(bottom) or ordinal(bottom)
    said = f"{cardinal(top)} {part if top == 1 else plural(part)}"
    if whole:
        said = f"{number(whole)} and {re.sub('^one (?=[^e])', 'a ', said)}"
    if unit is None:
        return said
    return f"{said} {unit[1]}" if whole else f"{said} of {'an' if unit[0][0] in 'aeio' or unit[0] == 'hour' else 'a'} {unit[0]}"


def _dotted(match: Match) -> str | None:
    """192.168.1.1, 1.2.3, v2, version 3.10."""
    parts, name = match["dotted"].split("."), match["name"]
    if name is None and len(parts) < 3:
        return None
    said = " dot ".join(map(code, parts)) if len(parts) == 4 else " point ".join(map(number, parts))
    if name is None:
        return said
    return f"{'version' if name.startswith('v') and 'version' not in name else name.rstrip()} {said}"


def _groups(match: Match) -> str:
    """Telephone and card numbers."""
    groups = re.findall(r"\d+", match[0])
    say = digits if max(map(len, groups)) > 2 else number
    return ("plus " if match[0].startswith("+") else "") + ", ".join(map(say, groups))


def _address(match: Match) -> str:
    text = re.sub(r"^https?://(?:www\.)?|/$", "", match[0])
    spaced = re.sub(r"\d+|[^\w\s]|_", lambda found: f" {ADDRESS_MARKS.get(found[0]) or digits(found[0])} ", text)
    return " ".join(spaced.split())


def _spaced_range(match: Match) -> str | None:
    low = re.compile(r".*?(\d+)$").match(match.string, max(0, match.start() - 6), match.start())
    high = re.compile(r"\d+").match(match.string, match.end())
    return " to " if low and high and len(high[0]) < 7 and int(low[1]) < int(high[0]) else None


def _glued_range(match: Match) -> str | None:
    """5-10, 5kg-10kg; but not in a name, as in i7-9700K and GPT-4-32k."""
    letters = _LETTERS_AFTER.match(match.string, match.end())
    word = letters[1] if letters else ""
    is_word = word in _AFTER_NUMBER or (word.islower() and len(word) > 2)  # 5-10days
    return None if follows_name(match) or (word and not is_word) else " to "


def _per(match: Match) -> str | None:
    near = match.string[max(0, match.start() - 25) : match.start()]
    return f" per {PER[match[1]]}" if re.search(r"\d[^.!?]*$", near) else None


def _by(match: Match) -> str:
    """3 \u00d7 4 is a product, 3x4 a size."""
    say = number if max(map(len, match.groups())) < 4 else code
    return f"{say(match[1])} {'times' if ' ×' in match[0] else 'by'} {say(match[2])}"


def _titled(match: Match) -> str | None:
    before = match.string[max(0, match.start() - 30) : match.start()]
    street = match[0] == "St." and re.search(r"[\w,] (?!Mount|Lake|Fort)[A-Z][a-z]+ $", before)
    return "Street." if street else TITLES[match[1] or match[2]]


def _plain(match: Match) -> str | None:
    text = match["number"]
    if text.isdecimal() and len(text) > 2 and re.compile(r"s\b").match(match.string, match.end()):
        return None  # 747s
    if text.isdecimal() and len(text) == 4 and 1900 <= int(text) <= 2099:
        return _signed(match) + pairs(int(text))
    long_name = text.isdecimal() and len(text) >= 7 and not text.endswith("000")
    said = digits(text) if long_name else number(text)
    glued = match.string[match.end() : match.end() + 1].isalpha()
    return _signed(match) + (code(text) if glued and text.isdecimal() else said) + " " * glued


def _inside_name(match: Match) -> str:
    """B52s, MP3, v2beta, GPT3.5."""
    before = match.string[max(0, match.start() - 1) : match.start()]
    after = match.string[match.end() : match.end() + 1]
    said = number(match[1]) if "." in match[1] else code(match[1])
    said = plural(said) if match[2] else said
    return " " * before.isalnum() + said + " " * after.isalpha()


def _roman(text: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50}[letter] for letter in text]
    return sum(-value if value < max(values[at:]) else value for at, value in enumerate(values))


def _shortened(match: Match) -> str:
    at_end = match["goes_on"] is None and match[1] not in _NEVER_LAST
    return SHORTENED[match[1]] + "." * at_end


_LETTERS_AFTER = re.compile(r"[$£€¥]?[\d.,:]{1,20}([A-Za-z]{1,12})")
_AFTER_NUMBER = {*UNITS, *SCALES, *"st nd rd th s x am pm AM PM a p in year years".split()}
_PARTS = frozenset({12, 16, 20, 24, 32, 64, 100, 1000})
_NEVER_LAST = frozenset({"vs", "approx", "dept", "Dept", "Univ", "Assn"})
_TLD = r"(?:com|org|net|edu|gov|io|dev|ai|info|co\.uk)"
_ADDRESSES = (
    r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\b|\b(?:https?://|www\.)[^\s,;!<>\"]*[\w/]",
    rf"(?<![\w.@-])(?:[A-Za-z0-9][a-z0-9-]{{0,62}}\.){{1,4}}{_TLD}\b(?:/[^\s,;!<>\"]*[\w/])?",
)
_TELEPHONES = (
    r"(?<![\w.-])(?:(?:\+\d{1,3}|\d)[ .-])?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\w)",
    r"(?<!\w)\+\d[\d ().-]{6,18}\d(?!\w)",
    r"(?<![\w-])\d{3}-\d{4}(?![\w-])",
    r"(?<!\w)\d{4}(?:[ -]\d{4}){3}(?!\w)",  # cards
    r"(?<![\w-])\d{1,20}(?:-\d{1,20}){2,8}(?![\w-])",  # 123-45-6789
    r"(?<![\w-])\d{5}-\d{4}(?!\w)",
    r"(?<![\w.,])(?<!\d )0\d{2,4}(?: \d{3,4}){1,2}(?!\w)",
    r"(?:(?<=[Cc]all )|(?<=[Dd]ial )|(?<=[Pp]hone )|(?<=[Nn]umber is ))\d{2,4}(?: \d{2,4}){2,4}(?! ?\d|\w)",
    r"(?i:(?<=call |dial )(?:911|999|112|311|411))\b",
)
_YEAR_AFTER = "|".join(f"(?<={word} )" for word in "[Ii]n [Bb]y [Oo]f [Ss]ince [Uu]ntil [Ff]rom circa c\\. ca\\. year late early".split())
_NO_COUNT = r"(?![\w%°]|[,.:]\d| (?!was|is|has|his|as|its|this|us\b)[a-z]+s\b)"
_VERSIONED = "v\\.? ?|[Vv]ersion |[Rr]elease |Python ?|iOS |Android |macOS |Ubuntu |CUDA "
# Where a dash between numbers means from and to.
_RANGE = r"(?<=[\d%°])|(?<=\d[€£¢$])|(?<=\d[a-zA-Z])|(?<=[\d°][a-zA-Z]{2})|(?<=\d [a-z]{2})|(?<=°[CF])|(?<=[ap]\.m\.)"

RULES: list[Rule] = [
    (re.compile(rf"(?<![\w/])(?:{_any(LITERALS)})(?![\w/])"), lambda m: LITERALS[m[0]]),
    (re.compile(r"(?<![\w/])(?:C\+\+|[CF]#)(?=\d)"), lambda m: f"{LITERALS[m[0]]} "),
    (re.compile("|".join(_ADDRESSES)), _address),
    *MONEY_RULES,
    (
        re.compile(rf"{START}(?P<listed>\d{{1,5}}(?:/\d{{1,5}}){{2,20}})\s?(?P<unit>{_any(UNITS)})(?!\w)"),  # 10/20/30 mg is no date
        lambda m: f"{', '.join(map(number, m['listed'].split('/')))} {UNITS[m['unit']][1]}",
    ),
    *DATE_RULES,
    (re.compile(r"(?<![\w-])(1-8\d\d)-(?=[A-Z]{2})"), lambda m: f"{_groups(m)}, "),  # 1-800-FLOWERS
    (re.compile("|".join(_TELEPHONES)), _groups),
    (re.compile(r"(?<![\w.,])(\d{1,3}(?:,\d{3}){1,4}|\d{1,12})(?i:st|nd|rd|th)\b"), lambda m: ordinal(int(m[1].replace(",", "")))),
    (re.compile(rf"(?:{_YEAR_AFTER})(1\d\d\d|20\d\d){_NO_COUNT}"), lambda m: pairs(int(m[1]))),
    (
        re.compile(rf"{START}(\d{{1,2}}\.\d)/(5|10)(?![\w/%]|[.,]\d)"),  # a mark of 4.5/5
        lambda m: f"{number(m[1])} out of {number(m[2])}" if float(m[1]) <= int(m[2]) else None,
    ),
    (
        re.compile(
            rf"{START}(?:(?P<whole>\d{{1,3}}) ?)??"
            rf"(?:(?P<vulgar>[{''.join(VULGAR)}])|(?<!\d)(?P<top>\d{{1,3}})[/⁄](?P<bottom>\d{{1,4}})(?![\w/]))"
            rf"(?:\s?(?P<unit>{_any(UNITS)})(?!\w))?"
        ),
        _fraction,
    ),
    (
        re.compile(rf"{ONE}{START}{MINUS}(?P<number>{AMOUNT})(?P<gap>[\s-]?)(?P<unit>{_any(UNITS)}|in(?=\. [a-z]))(?!\w)(?:\.(?= [a-z]))?"),
        _unit,
    ),
    (re.compile(rf"{START}(\d{{1,2}})['’′](\d{{1,2}})(?:\"|”|″|'')"), lambda m: f"{number(m[1])} foot {number(m[2])}"),
    (re.compile(rf"(?<=[a-z\d€£¢])/({_any(PER)})\b"), _per),
    (
        re.compile(
            rf"(?<![\w.])(?P<name>{_VERSIONED})?"
            r"(?P<dotted>(?<!\w)\d{1,9}(?:\.\d{1,9}){2,8}|(?<=[ nv.])\d{1,9}(?:\.\d{1,9}){1,8}|(?<=v)\d{1,9})(?!\w|\.\d)"
        ),
        _dotted,
    ),
    (re.compile(rf"{START}(\d{{1,5}}) ?[x×] ?(\d{{1,5}})(?!\w)"), _by),
    (re.compile(rf"{START}({NUMBER})[x×](?!\w)"), lambda m: f"{number(m[1])} times"),
    (re.compile(rf"{START}(\d+(?:\.\d+)?)k\b(?! (?:run|race|resolution|video|monitor|TV)\b)"), lambda m: f"{number(m[1])} thousand"),
    (
        re.compile(rf"{START}(\d+\.\d+|\d\d+|[124-9])([MB])(?= (?:people|(?!was|is|has|as)[a-z]+s)\b)"),
        lambda m: f"{number(m[1])} {SCALES[m[2]]}",
    ),
    *FIRST_SIGN_RULES,
    (re.compile(r"(?<=\d) [-–] (?=\d)"), _spaced_range),
    (re.compile(rf"(?:{_RANGE})[-–~～](?=[$£€¥]?\.?\d)|(?<=[apAP][mM]) [-–] (?=\d)"), _glued_range),
    (re.compile(rf"{START}(\d{{1,3}}):(\d{{1,3}})(?![\d:])"), lambda m: f"{number(m[1])} to {number(m[2])}"),
    (re.compile(r"#(?=\d)"), lambda _: "number "),
    (re.compile(r"(?<![\w#])#(?=[A-Za-z])"), lambda _: "hashtag "),
    (re.compile(rf"\b({_any(LABELS)})\.\s?(?=\d)"), lambda m: f"{LABELS[m[1]]} "),
    *SIGN_RULES,
    (re.compile(rf"(?<![\w.])(?P<minus>(?<![\w)%°])[-−])?(?P<number>{NUMBER})"), _plain),
    (re.compile(r"(\d+(?:\.\d+)?)(s\b)?"), _inside_name),
    (re.compile(r"(?<=\d)[,/](?=\d)"), lambda _: ", "),
    (re.compile(rf"\b(Mr|Mrs|Dr|Prof|St)\b\.?(?= [A-Z])|\b({_any(TITLES)})\.(?= [A-Z])"), _titled),
    (re.compile(r"\be\.g\.,?|\bi\.e\.,?"), lambda m: "for example," if m[0].startswith("e") else "that is,"),
    (re.compile(r"\bvs\b(?!\.)"), lambda _: "versus"),
    (re.compile(rf"\b({_any(SHORTENED)})\.(?P<goes_on>(?=[,;:)]|\s[a-z(&\d]))?"), _shortened),
    (re.compile(r"\s&\s"), lambda _: " and "),
    (re.compile(r"(?<=[A-Z])&(?=[A-Z])"), lambda _: " and "),
    (re.compile(r"(?<!\w)@(?=\w)"), lambda _: "at "),
    (re.compile(rf"\b({'|'.join(NUMBERED)}) ([IVXL]{{2,7}}|[IVX])(?![\w'’])"), lambda m: f"{m[1]} {cardinal(_roman(m[2]))}"),
    (re.compile(rf"\b({'|'.join(REGAL)}) ([IVX]{{2,5}}|[VX])(?![\w'’])"), lambda m: f"{m[1]} the {ordinal(_roman(m[2]))}"),
    CAPITALS,
]
