"""What a text names, in every script, and what it does not."""

from __future__ import annotations

import unicodedata

import pytest

from sae_train.text.naming import cuts_into, masked, names, names_any
from sae_train.text.words import graphemes, normalize, pieces, same_text


def test_a_name_is_found_where_it_stands(script):
    for text in script.names_it:
        assert names_any(text, [script.name]), text


def test_what_is_spelt_almost_alike_is_another_name(script):
    for text in script.another:
        assert not names_any(text, [script.name]), text


def test_how_a_text_is_encoded_does_not_matter(script):
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        written = [unicodedata.normalize(form, text) for text in (script.name, *script.names_it, *script.another)]
        assert names_any(written[1], [written[0]]), form
        assert not any(names_any(text, [script.name]) for text in written[1 + len(script.names_it) :]), form
        assert normalize(written[0]) == normalize(script.name), form


def test_normalising_twice_changes_nothing(script):
    for text in (script.name, *script.names_it, *script.another):
        assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  São Tomé & Príncipe. ", "sao tome principe"),
        ("U.S.A", "u s a"),
        ("d’Ivoire d'Ivoire", "d ivoire d ivoire"),
        ("straße ΣΊΣΥΦΟΣ Σίσυφος", "strasse σισυφοσ σισυφοσ"),
        ("Ёлка, Май", "елка май"),  # ё is written е; й is no и
        ("चेन चीन", "चेन चीन"),
        ("ガ カ が", "ガ カ が"),
        ("١٩٨٧ १९८७ ๑", "1987 1987 1"),
        ("iPhoneは2024年BTS는", "iphone は 2024 年 bts 는"),
        ("🇫🇷🇰🇪👩\u200d💻 ❤\ufe0f", "🇫🇷 🇰🇪 👩\u200d💻 ❤"),
        ("C++ C# A+B 50+ $5 €5", "c++ c# a b 50 $ 5 € 5"),
        ("_Paris_ `Paris` **Paris**", "paris paris paris"),
        (" ... ?! — 「」 ´", ""),
        ("می\u200cخواهم", "میخواهم"),
    ],
)
def test_words(text, plain):
    assert normalize(text) == plain


def test_text_in_ascii_is_read_like_any_other():
    text = " C++11 is older than C#; A+B, 3+4 = 7 _and_ S8+ 2x+y x+ $5 ++"
    assert normalize(text + " é") == normalize(text) + " e"


def test_pieces_are_words_or_characters():
    assert pieces("Das ist 東京 und กา 서울은") == ["das", "ist", "東", "京", "und", "ก", "า", "서", "울", "은"]
    assert graphemes("हिन्दी") == ["हि", "न्दी"]


def test_a_blank_between_names_without_blanks_may_be_left_out():
    assert names_any("昨日、山田太郎が", ["山田 太郎"]) and not names_any("昨日、山田次郎が", ["山田 太郎"])
    assert not names_any("newyork", ["new york"])


def test_what_is_masked_names_nothing():
    assert masked("papua new guinea", "guinea") == "papua new ;"
    assert not names(masked("印度尼西亚", "印度尼西亚"), "印度")
    assert cuts_into("東京", "京都") and not cuts_into("京都", "東京")


def test_accents_may_be_encoded_in_two_ways():
    assert same_text("é", "e\u0301") and not same_text("é", "e")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("Łódź", "Lodz"),
        ("Đà Nẵng", "Da Nang"),
        ("Tromsø", "Tromso"),
        ("Diyarbakır", "Diyarbakir"),
        ("Ħamrun", "Hamrun"),
    ],
)
def test_a_stroke_through_a_letter_is_an_accent(written, plain):
    assert names_any(f"It is in {written}.", [plain]) and names_any(f"It is in {plain}.", [written])
    assert normalize("æ ð þ") == "æ ð þ", "letters of their own"
