"""Chinese: rules for what is not written as it is said, in the order in which they claim their part of the text."""

# ruff: noqa: RUF001 - full-width marks are meant

from __future__ import annotations

import re

from f5_worker.rewrite import Rule, follows_name

Match = re.Match[str]

_DIGITS = "零一二三四五六七八九"
_CURRENCIES = {"¥": "元", "￥": "元", "RMB": "元", "CNY": "元", "US$": "美元", "HK$": "港元", "$": "美元", "USD": "美元", "€": "欧元",
               "EUR": "欧元", "£": "英镑", "GBP": "英镑"}  # fmt: skip
_UNITS = {
    "km/h": "公里每小时", "m/s": "米每秒", "km": "公里", "cm": "厘米", "mm": "毫米", "μm": "微米", "nm": "纳米", "m": "米",
    "km²": "平方公里", "m²": "平方米", "㎡": "平方米", "cm²": "平方厘米", "m³": "立方米", "cm³": "立方厘米",
    "kg": "公斤", "mg": "毫克", "g": "克", "t": "吨", "ml": "毫升", "mL": "毫升", "L": "升",
    "℃": "摄氏度", "°C": "摄氏度", "℉": "华氏度", "°F": "华氏度", "°": "度", "h": "小时", "min": "分钟", "s": "秒", "ms": "毫秒",
    "kHz": "千赫兹", "MHz": "兆赫兹", "GHz": "吉赫兹", "Hz": "赫兹", "kW": "千瓦", "W": "瓦", "kWh": "千瓦时", "V": "伏", "mAh": "毫安时",
    "dB": "分贝", "kcal": "千卡", "px": "像素",
}  # fmt: skip
_MATHS = {
    "<": "小于",
    ">": "大于",
    "≤": "小于等于",
    "≥": "大于等于",
    "+": "加",
    "=": "等于",
    "×": "乘",
    "*": "乘",
    "÷": "除以",
    "-": "减",
    "−": "减",
    "–": "减",
}
_BEFORE_NUMBER = {"~": "约", "≈": "约", "±": "正负", "<": "小于", ">": "大于", "≤": "小于等于", "≥": "大于等于", "+": "正"}
_ADDRESS_MARKS = {
    ".": "点", "/": "斜杠", "@": "艾特", "-": "杠", "_": "下划线", "?": "问号", "=": "等于", "&": "和", "#": "井号", ":": "冒号",
}  # fmt: skip
_VULGAR = {"½": "二分之一", "⅓": "三分之一", "⅔": "三分之二", "¼": "四分之一", "¾": "四分之三"}
# Before these a two is 两, unless it is one of an order (第2个, 星期2天气).
_COUNTERS = (
    "个個只隻位本件条條张張辆輛次天岁歲斤块塊元种種台家间間层層倍周千万萬亿億百公米厘毫克升吨人小分秒名所支双雙套头匹棵杯瓶碗份"
    "句部颗片座艘架组門门项根把顶节场届篇首美欧英港平立点點年"
)
_NOT_COUNTED = "(?!年级|年級|分之|月|日|号|號)"
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,10}(?![,\d])|\d+)(?:\.\d+)?"
_START = r"(?<![\d.,:/A-Za-z])"
_STOP = r"(?![\d.]?\d|[A-Za-z])"
_MINUS = r"(?P<minus>(?<![\dA-Za-z)%％℃°])[-−])?"
_DASH = r"\s?[-–—~～]\s?"
_MOST_DIGITS = 12  # longer ones are read digit by digit


def cardinal(number: int) -> str:
    """10203 -> 一万零二百零三; 12 -> 十二; 112 -> 一百一十二."""
    said = _cardinal(number)
    return said.removeprefix("一") if said.startswith("一十") else said


def _cardinal(number: int) -> str:
    for value, name in ((10**8, "亿"), (10**4, "万")):
        if number >= value:
            rest = number % value
            head = "两" if number // value == 2 else cardinal(number // value)
            return head + name + ("零" if 0 < rest < value // 10 else "") + (_cardinal(rest) if rest else "")
    return _below_10000(number).replace("二千", "两千")


def _below_10000(number: int) -> str:
    if number == 0:
        return "零"
    text, said, zero = str(number), "", False
    for place, char in enumerate(text):
        if char == "0":
            zero = True
            continue
        said += ("零" if zero else "") + _DIGITS[int(char)] + ("", "十", "百", "千")[len(text) - place - 1]
        zero = False
    return said


def digits(text: str) -> str:
    """2024 -> 二零二四."""
    return "".join(_DIGITS[int(char)] for char in text if char.isdecimal())


def number(text: str) -> str:
    """1,234.5 -> 一千二百三十四点五; endless and zero-led ones digit by digit."""
    whole, _, fraction = text.replace(",", "").partition(".")
    said = digits(whole) if len(whole) > _MOST_DIGITS or re.match("0.", whole) else cardinal(int(whole))
    return f"{said}点{digits(fraction)}" if fraction else said


def _two(text: str) -> str:
    """A number before what it counts."""
    return "两" if text == "2" else number(text)


def _signed(match: Match, minus: str = "负") -> str:
    return minus if match["minus"] else ""


def _currency(match: Match) -> str:
    name, amount, scale, low = _CURRENCIES[match["sign"]], match["number"], *map(match.groupdict().get, ("scale", "low"))
    before = _signed(match) + (f"{number(low)}到" if low else "")
    if name == "元" and not scale and not low and re.fullmatch(r"[\d,]+\.\d\d?", amount):
        return before + _yuan(amount)
    return before + (_two(amount) if "." not in amount else number(amount.rstrip("0").rstrip("."))) + (scale or "") + name


def _yuan(amount: str) -> str:
    """12.50 -> 十二元五角; 0.05 -> 五分."""
    whole, _, fraction = amount.partition(".")
    jiao, fen = int(fraction[0]), int(fraction[1:] or 0)
    said = f"{_two(whole)}元" if whole.strip("0") or not (jiao or fen) else ""
    said += f"{_DIGITS[jiao]}角" if jiao else "零" if fen and said else ""
    return said + (f"{_DIGITS[fen]}分" if fen else "")


def _time(match: Match) -> str | None:
    hour, minute, second = int(match[1]), int(match[2]), match[3]
    if hour > 24 or minute > 59 or _is_score(match):
        return None
    said = ("两" if hour == 2 else cardinal(hour)) + "点"
    said += "" if minute == 0 and not second else f"{_minute(minute)}分"
    return said + (f"{_minute(int(second))}秒" if second else "")


def _minute(minute: int) -> str:
    return f"零{cardinal(minute)}" if minute < 10 else cardinal(minute)


def _years(match: Match) -> str:
    return f"{digits(match[1])}{match[2]}{match[3] or '到'}{digits(match[4])}"


def _date(match: Match) -> str | None:
    month, day = int(match[3]), int(match[4])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{digits(match[1])}年{cardinal(month)}月{cardinal(day)}日"


def _unit(match: Match) -> str:
    text, unit = match["number"], _UNITS[match["unit"]]
    cold = match["unit"] in {"℃", "°C", "℉", "°F"}
    return _signed(match, "零下" if cold else "负") + (number(text) if unit.endswith("度") else _two(text)) + unit


def _telephone(match: Match) -> str:
    return "，".join(digits(group) for group in re.findall(r"\d+", match[0])).replace("一", "幺")


def _dotted(match: Match) -> str:
    return "点".join(number(part) if len(part) < 3 else digits(part) for part in match[0].split("."))


def _until(match: Match) -> str | None:
    """None inside a name: i7-9700K."""
    if follows_name(match):
        return None
    return "比" if _is_score(match) else "到"


def _until_same(match: Match) -> str | None:
    """100元-200元, 5kg~10kg: a number with what it counts is on both sides."""
    return "到" if _MEASURED.search(match.string[max(0, match.start() - 12) : match.start()]) else None


def _is_score(match: Match) -> bool:
    return re.search(r"比[分例率]?[^\d]{0,2}\d*$", match.string[max(0, match.start() - 7) : match.start()]) is not None


def _address(match: Match) -> str:
    text = re.sub(r"^https?://(?:www\.)?|/$", "", match[0])
    return re.sub(r"\d+|[^\w\s]|_", lambda found: _ADDRESS_MARKS.get(found[0]) or digits(found[0]), text)


def _counted(match: Match) -> bool:
    """Whether a two stands before what it counts: 2个, 2-3个, but not 第2个, 2月."""
    before = match.string[max(0, match.start() - 2) : match.start()]
    after = re.compile(rf"(?:(?:{_DASH}|到|至)\d+)?\s?{_NOT_COUNTED}[{_COUNTERS}]").match(match.string, match.end())
    return after is not None and not before.endswith(("第", "初", "周", "星期", "礼拜"))


def _plain(match: Match) -> str:
    text, minus = match["number"], "" if _in_name(match) else _signed(match)
    if text == "2" and _counted(match):
        return minus + "两"
    follows = match.string[match.end() : match.end() + 1]
    name = text.isdecimal() and len(text) >= 7 and not text.endswith("000") and not (follows and follows in _COUNTERS)
    return minus + (digits(text) if name else number(text))


def _in_name(match: Match) -> bool:
    """Whether the dash before the number is part of a name, as in 歼-20 and 甲-3号楼, and no minus, as in 余额为-3 and 气温-5度."""
    before, after = match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1]
    return _HAN.match(before) is not None and before not in _BEFORE_MINUS and not (after and after in _OF_MEASURES)


def _inside_name(match: Match) -> str:
    """A4, G20, A380, PM2.5."""
    if "." in match[0]:
        return number(match[0])
    return digits(match[0]) if len(match[0]) > 2 or match[0].startswith("0") else number(match[0])


_HAN = re.compile(r"[\u3400-\u9fff]")
_BEFORE_MINUS = "拔益绩分有了扣是为到至从在约达得于率温度额值差标数跌涨降升低高轴点成即共计下减加乘除和与或"
_OF_MEASURES = "度元块万亿米分点层"
_ADDRESSES = (
    r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
    r"(?<![A-Za-z0-9])(?:https?://|www\.)[!-~]*[A-Za-z0-9/]",
    r"(?<![A-Za-z0-9.@-])(?:[A-Za-z0-9][a-z0-9-]{0,62}\.){1,4}(?:com|cn|org|net|edu|gov|io)(?![A-Za-z])",
)
_TELEPHONES = (
    r"(?<![\d-])1\d{2}[- ]?\d{4}[- ]?\d{4}(?!\d)",
    r"(?<![\d-])0\d{2,3}[- ]\d{3,4}[- ]?\d{4}(?!\d)",
    r"(?<![\d-])[48]00[- ]\d{3,4}[- ]\d{3,4}(?!\d)",
    r"[(（]0\d{2,3}[)）]\s?\d{3,4}[- ]?\d{4}(?!\d)",
    r"(?:(?<=邮编)|(?<=邮政编码)|(?<=邮编[:：])|(?<=邮政编码[:：])|(?<=邮编[:：]\s)|(?<=邮编是))\d{6}(?!\d)",
    r"(?<![\d-])\d{1,20}(?:-\d{1,20}){2,8}(?![\d-])",
    r"(?:(?<=电话)|(?<=电话:)|(?<=电话：)|(?<=热线)|(?<=拨打)|(?<=拨)|(?<=打))\d{3,8}(?![\d年月日个次元块分岁折])",
    r"(?<![\d.])\d{5}(?=网站|热线|客服|平台)",
    r"(?<!\d)(?:985|211|996|618)(?=(?:高校|大学|工程|院校|工作制|大促|购物))",
)
_ANY_UNIT = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
_MEASURED = re.compile(rf"\d\s?(?:{_ANY_UNIT}|[十百千万亿]{{0,2}}[\u3400-\u9fff]{{0,3}}[{_COUNTERS}元度时時月日号號页頁章分里楼])$")
_YEAR = r"(?<!\d)(1[1-9]\d\d|10[1-9]\d|100[1-9]|20\d\d)(?=年)(?!年[前来间]|年以|年历史|年的历史|年之)"

RULES: list[Rule] = [
    (re.compile("|".join(_ADDRESSES)), _address),
    (re.compile(rf"(?<=[^\W\d_²³°]){_DASH}(?=第?[¥￥$€£]?\d)|(?<=[²³°℃℉㎡]){_DASH}(?=\d)"), _until_same),
    (re.compile(r"(?<!\d)(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?![\d.])"), _date),
    (re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])(?![\d.年-])"), lambda m: f"{digits(m[1])}年{cardinal(int(m[2]))}月"),
    (re.compile(rf"(?<!\d)(\d{{4}})(年?)(?:{_DASH}|([到至]))(\d{{4}})(?=年)"), _years),
    (re.compile(_YEAR), lambda m: digits(m[1])),
    (re.compile(r"(?<!\d)(0\d|[5-9]0)(?=后(?![面来]))"), lambda m: digits(m[1])),
    (re.compile(r"(?<!\d)0([1-9])(?=[月日号點点时時])"), lambda m: cardinal(int(m[1]))),
    (re.compile(r"(?<!\d)(\d{1,2})[·・](\d{1,2})(?!\d)"), lambda m: digits(m[0])),
    (
        re.compile(
            rf"{_MINUS}(?P<sign>[¥￥€£]|(?:US|HK)?\$|(?<![A-Za-z])(?:RMB|CNY|USD|EUR|GBP))\s?"
            rf"(?:(?P<low>{_NUMBER}){_DASH})?(?P<number>{_NUMBER})\s?(?P<scale>[十百千万亿]{{0,2}})元?"
        ),
        _currency,
    ),
    (re.compile(rf"{_START}{_MINUS}(?P<number>{_NUMBER})\s?(?P<sign>USD|EUR|GBP|RMB|CNY|[€£])(?![A-Za-z])"), _currency),
    (re.compile(r"(?<![\d.,A-Za-z])(\d[\d,]*\.\d\d?)(?=元)元"), lambda m: _yuan(m[1])),
    (re.compile(rf"{_START}{_MINUS}(?P<number>{_NUMBER})\s?[%％]"), lambda m: f"{_signed(m)}百分之{number(m['number'])}"),
    (re.compile(rf"{_START}(?P<number>{_NUMBER})‰"), lambda m: f"千分之{number(m['number'])}"),
    (re.compile(rf"{_START}(\d{{1,2}})[:：](\d\d)(?:[:：](\d\d))?(?![\d:：])"), _time),
    (re.compile(r"(?<![\d/])24/7(?![\d/])"), lambda _: "七乘二十四"),
    (re.compile(rf"{_START}(\d{{1,12}})/(\d{{1,12}}){_STOP}(?!/)"), lambda m: f"{number(m[2])}分之{number(m[1])}"),
    (re.compile("[½⅓⅔¼¾]"), lambda m: _VULGAR[m[0]]),
    (re.compile(rf"{_START}{_MINUS}(?P<number>{_NUMBER})\s?(?P<unit>{_ANY_UNIT})(?![A-Za-z/])"), _unit),
    (re.compile("|".join(_TELEPHONES)), _telephone),
    (re.compile(r"(?<![\d.,])\d{1,9}(?:\.\d{1,9}){2,8}(?![\d.]?\d)"), _dotted),
    (re.compile(r"(?<=\d)\s?([-−–])\s?(?=\d+(?:\.\d+)?\s?=)|(?<=\d)\s?([+=×*÷<>≤≥])\s?(?=-?\d)"), lambda m: _MATHS[m[1] or m[2]]),
    (re.compile(rf"(?<=[\d%％℃°元月日号点年时岁万亿]){_DASH}(?=[¥￥$€£]?\d)"), _until),
    (re.compile(r"(?<![\d.])(\d{1,9})[:：](\d{1,9})(?![\d:：])"), lambda m: f"{cardinal(int(m[1]))}比{cardinal(int(m[2]))}"),
    (re.compile(r"(?<=[A-Za-z])\s?([=≤≥])\s?(?=-?\d)"), lambda m: _MATHS[m[1]]),
    (re.compile(r"(?<![\d<>=-])([~≈±<>≤≥+])\s?(?=[¥￥$€£]?\d)"), lambda m: _BEFORE_NUMBER[m[1]]),
    (re.compile(r"(?<=\d)/(?=\d)"), lambda _: "、"),
    (re.compile(rf"(?<![\d.A-Za-z])(?P<minus>(?<![\dA-Za-z)])[-−])?(?P<number>{_NUMBER})"), _plain),
    (re.compile(r"\d+(?:\.\d+)?"), _inside_name),
]
