"""English: what marks, units and shortened words stand for."""

# ruff: noqa: RUF001, SIM905 - signs are meant; lists of words read better as text

from __future__ import annotations

MONTHS = "January February March April May June July August September October November December".split()

_DOLLAR = ("dollar", "dollars", "cent", "cents")
_POUND = ("pound", "pounds", "penny", "pence")
_EURO = ("euro", "euros", "cent", "cents")
_YEN = ("yen", "yen", "sen", "sen")
_RUPEE = ("rupee", "rupees", "paisa", "paise")


def dollars_of(country: str) -> tuple[str, str, str, str]:
    return f"{country} dollar", f"{country} dollars", "cent", "cents"


# One, many, a hundredth, hundredths.
CURRENCIES = {
    "$": _DOLLAR, "£": _POUND, "€": _EURO, "¥": _YEN, "₹": _RUPEE, "₩": ("won", "won", "jeon", "jeon"),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"), "₿": ("bitcoin", "bitcoins", "", ""),
    "US$": dollars_of("US"), "A$": dollars_of("Australian"), "C$": dollars_of("Canadian"), "HK$": dollars_of("Hong Kong"),
    "CA$": dollars_of("Canadian"), "AU$": dollars_of("Australian"), "R$": ("real", "reais", "centavo", "centavos"),
    "NZ$": dollars_of("New Zealand"), "USD": dollars_of("US"), "AUD": dollars_of("Australian"), "CAD": dollars_of("Canadian"),
    "GBP": _POUND, "EUR": _EURO, "JPY": _YEN, "INR": _RUPEE, "CNY": ("yuan", "yuan", "fen", "fen"), "RMB": ("yuan", "yuan", "fen", "fen"),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"), "¢": ("cent", "cents", "", ""),
}  # fmt: skip
SCALES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "b": "billion", "B": "billion", "bn": "billion",
    "T": "trillion", "tn": "trillion",
}  # fmt: skip

_METRIC = {
    "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "μm": "micrometer", "µm": "micrometer", "nm": "nanometer", "m": "meter",
    "ha": "hectare", "kg": "kilogram", "mg": "milligram", "μg": "microgram", "µg": "microgram", "mcg": "microgram", "g": "gram",
    "l": "liter", "L": "liter", "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "dl": "deciliter",
}  # fmt: skip
_REGULAR = {
    **_METRIC,
    "lb": "pound", "lbs": "pound", "oz": "ounce", "mi": "mile", "yd": "yard", "yds": "yard", "tbsp": "tablespoon", "tsp": "teaspoon",
    "gal": "gallon", "qt": "quart", "px": "pixel", "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte",
    "TB": "terabyte",
    "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "kWh": "kilowatt hour", "MWh": "megawatt hour",
    "mAh": "milliamp hour",
    "V": "volt", "kV": "kilovolt", "mV": "millivolt", "mA": "milliamp", "dB": "decibel", "kcal": "kilocalorie", "cal": "calorie",
    "kJ": "kilojoule", "Pa": "pascal", "kPa": "kilopascal", "hPa": "hectopascal",
    "ns": "nanosecond", "ms": "millisecond", "s": "second", "sec": "second", "secs": "second", "min": "minute", "mins": "minute",
    "h": "hour", "hr": "hour", "hrs": "hour", "yr": "year", "yrs": "year", "°": "degree",
}  # fmt: skip
_RATES = {
    "km/h": ("kilometer", "per hour"), "kph": ("kilometer", "per hour"), "mph": ("mile", "per hour"), "m/s": ("meter", "per second"),
    "MB/s": ("megabyte", "per second"), "GB/s": ("gigabyte", "per second"), "kbps": ("kilobit", "per second"),
    "Mbps": ("megabit", "per second"), "Gbps": ("gigabit", "per second"), "fps": ("frame", "per second"), "bpm": ("beat", "per minute"),
    "rpm": ("revolution", "per minute"), "dpi": ("dot", "per inch"), "mpg": ("mile", "per gallon"), "°C": ("degree", "Celsius"),
    "°F": ("degree", "Fahrenheit"), "℃": ("degree", "Celsius"), "℉": ("degree", "Fahrenheit"),
}  # fmt: skip
_SAME = {
    "%": "percent", "‰": "per mille", "ppm": "parts per million", "psi": "psi", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz",
    "GHz": "gigahertz", "THz": "terahertz",
}  # fmt: skip
# One, many.
UNITS = {
    **{unit: (word, f"{word}s") for unit, word in _REGULAR.items()},
    **{unit: (f"{word} {rest}", f"{word}s {rest}") for unit, (word, rest) in _RATES.items()},
    **{unit: (word, word) for unit, word in _SAME.items()},
    **{f"{unit}{mark}": (f"{power} {word}", f"{power} {word}s") for unit, word in _METRIC.items() if unit.endswith("m")
       for mark, power in (("²", "square"), ("³", "cubic"))},
    "sq ft": ("square foot", "square feet"), "sq mi": ("square mile", "square miles"), "sq m": ("square meter", "square meters"),
    "ft": ("foot", "feet"),
}  # fmt: skip
PER = {
    "second": "second", "sec": "second", "minute": "minute", "min": "minute", "hour": "hour", "hr": "hour", "day": "day", "week": "week",
    "wk": "week", "month": "month", "mo": "month", "year": "year", "yr": "year", "night": "night", "person": "person", "user": "user",
    "unit": "unit", "kg": "kilogram", "lb": "pound", "km": "kilometer", "mile": "mile", "kWh": "kilowatt hour", "GB": "gigabyte",
}  # fmt: skip

VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
LITERALS = {
    "24/7": "twenty-four seven", "9/11": "nine eleven", "50/50": "fifty-fifty", "50-50": "fifty-fifty", "100s": "hundreds",
    "1000s": "thousands", "C++": "C plus plus", "C#": "C sharp", "F#": "F sharp", "B2B": "B to B", "B2C": "B to C", "P2P": "P to P",
    "w/o": "without", "w/": "with",
}  # fmt: skip
MATHS = {"+": "plus", "=": "equals", "×": "times", "*": "times", "÷": "divided by", "^": "to the power of", "≠": "is not equal to",
         "<": "is less than", ">": "is greater than", "≤": "is at most", "≥": "is at least"}  # fmt: skip
BEFORE_NUMBER = {
    "~": "about", "≈": "about", "±": "plus or minus", "<": "less than", ">": "greater than", "≤": "less than or equal to",
    "≥": "greater than or equal to", "+": "plus", "№": "number", "§": "section",
}  # fmt: skip
ADDRESS_MARKS = {
    ".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", "?": "question mark", "=": "equals", "&": "and", "#": "hash",
    ":": "colon", "+": "plus", "%": "percent", "~": "tilde",
}  # fmt: skip

# Before a name.
TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor", "Prof": "Professor", "St": "Saint", "Gen": "General", "Col": "Colonel",
    "Capt": "Captain", "Lt": "Lieutenant", "Sgt": "Sergeant", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative",
    "Rev": "Reverend", "Mt": "Mount", "Ft": "Fort",
}  # fmt: skip
# Before a number.
LABELS = {
    "No": "number", "Nos": "numbers", "p": "page", "pp": "pages", "Fig": "Figure", "fig": "figure", "Figs": "Figures", "Vol": "Volume",
    "vol": "volume", "Ch": "Chapter", "ch": "chapter", "Sec": "Section", "Eq": "Equation", "eq": "equation", "Ext": "Extension",
    "ext": "extension", "Apt": "Apartment", "approx": "approximately", "ca": "circa", "c": "circa",
}  # fmt: skip
# Anywhere; at a sentence's end the stop stays.
SHORTENED = {
    "etc": "et cetera", "vs": "versus", "approx": "approximately", "Inc": "Incorporated", "Ltd": "Limited", "Co": "Company",
    "Corp": "Corporation", "Jr": "Junior", "Sr": "Senior", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "St": "Street",
    "Dept": "Department", "dept": "department", "Bros": "Brothers", "Assn": "Association", "Univ": "University",
}  # fmt: skip

# Capital letters that are words: the model would spell them out.
SAID_AS_WORDS = frozenset(
    "NASA NATO UNESCO UNICEF OPEC LASER RADAR COVID AIDS FIFA UEFA PIN RAM JPEG GIF YOLO SWAT NAFTA FEMA OSHA".split()
)
# Capital letters that are spelled out although they could be a word.
SPELLED = frozenset(
    """
    FBI CIA NSA USA UAE UFO CEO CFO CTO COO EU UN UK DNA RNA API URL AI IBM BBC ABC NBC IQ ID PC TV VIP DIY ETA IRS IPO GDP NBA IEEE ATM
    AC DC UI UX OS IOS USB CPU GPU APU IP ISP IBAN NAACP USAID ASAP FAQ EPA FDA CDC DEA EKG ECG MRI IVF UPS AAA OK AM PM UTC EST
    """.split()
)
# Words of up to four letters that are shouted more often than they are names.
COMMON = frozenset(
    """
    no not yes stop help wow love never now very all you your must only go do dont why what how when this that here there please sale
    free new hot big best good bad hey and the but for are was were be been my our his her its she he they we me him them with from have
    has had will can not just more most much many some any one two ten off out over up down back away run come wait look see hear read
    call talk say said tell told take took give make made get got let keep kept save buy sell pay win won lose lost open shut exit push
    pull hold turn left kill dead die live life home work play game hate hurt fire gun bomb war end ever even too so to of in on at by if
    or as is an day days week year time huge real true fake fast slow hard easy high low long last next once then than who both each
    every own oh ah ha damn hell god man men boy girl baby dear sir mom dad loud quit move stay went gone done dare care sure nice cool
    cute sad mad glad sick safe warm cold rich poor full half part used need want know knew feel felt find like hope also well into onto
    upon text note mean
    """.split()
)
MAYBE_NAMES = frozenset("it us who am pm hi ms pa ad bc ice act".split())  # words only among shouted ones

REGAL = (
    "Henry Louis Elizabeth George Charles Edward Richard James William Philip Paul Benedict Pius Napoleon Nicholas Alexander Catherine "
    "Frederick Leo Gregory Innocent Ramses Ivan Peter Mary Emmanuel Ferdinand Francis Leopold Wilhelm Otto Clement Urban Boniface Xerxes"
).split()
NUMBERED = (
    "Chapter Part Volume Book Section Act Scene Phase Type Class Title Article Appendix War Stage Level Episode Season Bowl Grade Figure "
    "Table Rocky Rome Category Group Unit Mark"
).split()
