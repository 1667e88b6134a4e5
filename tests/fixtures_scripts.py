"""One case a script: a name, sentences that name it, and what it is not to be taken for. Registered by conftest."""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Case(NamedTuple):
    """A name in one script.

    Attributes:
        name: The name, or the accepted answer.
        names_it: Sentences that name it.
        another: Sentences that name something else, spelt almost alike.
    """

    name: str
    names_it: tuple[str, ...]
    another: tuple[str, ...]


CASES = {
    "Latin": Case(
        "São Tomé",
        (
            "A capital é São Tomé, no mar.",
            "SAO TOME",
            "It is **São Tomé**",
            "_Sa\u0303o Tome\u0301_",
            "S\u00adão Tomé™",
        ),
        ("São Tomás", "Santo Tomé e São"),
    ),
    "Cyrillic": Case("Алёшин", ("Это Алешин, вот.", "АЛЁШИН", "А́ле\u0308шин"), ("Алёшино", "Мама Алёши")),
    "Greek": Case("Αθήνα", ("Η πρωτεύουσα είναι η Αθήνα, ναι", "ΑΘΗΝΑ", "αθηνα"), ("Αθήναι", "Αθηναίος")),
    "Arabic": Case(
        "القاهرة", ("العاصمة هي القاهرة", "تقع في القَاهِرَة", "أذهب للقاهرة", "وبالقاهرة"), ("القاهر", "قاهرة")
    ),
    "Hebrew": Case("ירושלים", ("הבירה היא ירושלים", "יְרוּשָׁלַיִם", "היא נמצאת בירושלים"), ("ירושלימי", "ירוש")),
    "Devanagari": Case("चीन", ("राजधानी चीन है।", "चीन", "वह चीन, में"), ("चेन", "चुन", "चीनी", "च न")),
    "Thai": Case("กรุงเทพ", ("เมืองหลวงคือกรุงเทพมหานคร", "กรุงเทพฯ", "คือ กรุงเทพ ครับ"), ("กรุงธน", "กรุงเท่พ", "กรุง เทพ")),
    "Lao": Case("ວຽງຈັນ", ("ນະຄອນຫຼວງແມ່ນວຽງຈັນ", "ວຽງຈັນ"), ("ວຽງຈນ",)),
    "Khmer": Case("ភ្នំពេញ", ("រាជធានីគឺភ្នំពេញ។", "ភ្នំ\u200bពេញ"), ("ភ្នំពញ", "ភ្នំក្រោម")),
    "Burmese": Case("ရန်ကုန်", ("မြို့တော်သည်ရန်ကုန်ဖြစ်သည်။",), ("ရန်ကုန", "ရန်ကင်း")),
    "Han": Case("東京", (" 日本の首都は東京です。", "日本的首都是東京。", "東京2020"), ("京東", "東、京", "東北京")),
    "Kana": Case("インド", ("それはインドです", "インド人", "ｲﾝﾄﾞ"), ("インドネシア", "イント", "西インドシナ")),
    "Hiragana": Case("いわき", ("ここはいわきです", "いわき市"), ("いわぎ", "いわ")),
    "Hangul": Case("서울", ("수도는 서울입니다.", "서울은 크다", "서울에서도", "서울"), ("서우", "남서울", "서울랜드")),
    "emoji": Case("🇰🇪", ("It is 🇰🇪!", "🇰🇪🇫🇷"), ("🇰🇬", "🇫🇰🇪🇷", "🇰")),
    "sign": Case("C++", ("It is C++.", "C++11", "c++"), ("C", "C#", "C+", "++")),
    "sharp": Case("C#", ("In C#, mostly", "C♯"), ("C", "C++", "#C")),
    "letter": Case("C", ("It is C", "C, of course", "*C*"), ("C++", "C#", "CD")),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def script(request: pytest.FixtureRequest) -> Case:
    """Return one case after the other."""
    return request.param
