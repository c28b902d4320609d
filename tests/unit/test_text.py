"""Normalisation before words are compared: what counts as the same word in each language."""

from unicodedata import normalize

import pytest
from transformers import __version__
from transformers.models.whisper.english_normalizer import BasicTextNormalizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from speechmerge.text import LETTER_BY_LETTER, NORMALISER, is_marked, normalise


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        ("es", "¿Qué hora es, Señor?", "qué hora es señor"),
        ("fr", "L'ÉTÉ à Nîmes…", "l été à nîmes"),
        ("ru", "Здравствуй,  МИР!", "здравствуй мир"),
        ("el", "Καλημέρα!", "καλημέρα"),
        ("it", "perché [musica] no (ride)", "perché no"),
        ("es", "veinte 20", "veinte 20"),
        ("ca", "col·lecció", "col lecció"),
        ("es", " ... ", ""),
    ],
)
def test_other_languages_lose_case_and_punctuation_and_keep_their_letters(language, text, normal):
    assert normalise(text, language) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Mr. Smith won't pay twenty dollars", "mister smith will not pay $20"),
        ("I can't, you know", "i can not you know"),
        ("I can’t, you know", "i can not you know"),
        ("Well… I think... so. It is 3.5", "well i think so it is 3.5"),
        ("hmm, seventy five", "75"),
        ("ten... two", "10 2"),
        ("ten… two", "10 2"),
        ("five hundred…", "500"),
    ],
)
def test_english_goes_through_whispers_english_normaliser(text, normal):
    assert normalise(text, "en") == normal
    assert normalise(text, "es") != normal


def test_english_spelling_does_not_depend_on_a_tokenizers_table():
    assert normalise("colour", "en") == "colour"


@pytest.mark.parametrize("language", ["en", "fr", "ru", "th", "hi", "ja", "tr", "ar"])
def test_normalising_twice_changes_nothing(language):
    once = normalise("Ça va? Qu'est-ce QUE c'est — 3,5 km! น้ำ มे İI за́м कि ガ بَ", language)
    assert normalise(once, language) == once


def test_the_version_that_rows_carry_names_the_package_that_decides():
    assert __version__ in NORMALISER


NO_WORDS = "… .. ... ?! ¿ — - -- % $ € & # ' ’ ʼ ♪ 。 、 ・ ⋯ ‥ ․ ． ◌ ◌́ \u0301 \u00ad \u200b \u200d \ufeff ـ 👍🏽 ।"


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_holds_no_letter_or_digit_is_no_word(language):
    assert normalise(NO_WORDS, language) == "" and not any(normalise(sign, language) for sign in NO_WORDS.split())
    assert normalise("…. 7", language) == "7"


@pytest.mark.parametrize("language", ["en", "es", "ru", "hi"])
@pytest.mark.parametrize("dots", ["…", "...", "..", ".", " . . .", "‥", "․․․", "．．．", "︙", "…."])
def test_points_beside_a_word_are_no_part_of_it(language, dots):
    plain = {
        f"7 line{dots}": "7 line", f"{dots} line": "line", f"on{dots} line": "on line", f"7{dots}": "7",
        f"{dots} 7": "7", f"7{dots} {dots} line": "7 line",
    }  # fmt: skip
    if dots != ".":
        plain |= {f"{dots}7": "7" if dots != " . . ." else normalise(" .7", language), f"line{dots}on": "line on"}
    assert {text: normalise(text, language) for text in plain} == plain


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        ("tr", "İSTANBUL IRMAK", "istanbul ırmak"),
        ("az", "I\u0307lham", "ilham"),
        ("de", "İstanbul", "istanbul"),
        ("de", "Fuß\u00adball", "fußball"),
        ("ru", "за\u0301мок и\u0301", "замок и"),
        ("uk", "пʼять п'ять", "п ять п ять"),
        ("lt", "ė\u0301", "ė"),
        ("yo", "ẹ̀kọ́", "ẹ̀kọ́"),
        ("ar", "كَتَبَ الكـتاب", "كتب الكتاب"),
        ("he", "שָׁלוֹם", "שלום"),
        ("yi", "אַ אָ", "אַ אָ"),
        ("fa", "می\u200cخواهم", "میخواهم"),
        ("hi", "मेरा नाम राम है।", "मेरा नाम राम है"),
        ("ta", "தமிழ் மொழி", "தமிழ் மொழி"),
        ("ml", "സ്ഥിതിഗതികൾ", "സ്ഥിതിഗതികൾ"),
        ("ko", normalize("NFD", "한국어, 말"), "한국어 말"),
        ("es", "el 1️⃣", "el 1"),
        ("ja", "葛\U000e0100ｶﾞ「ー」", "葛 ガ ー"),
        ("km", "ភាសា\u200bខ្មែរ", "ភាសា ខ្មែរ"),
    ],
)
def test_words_are_not_cut_at_marks_nor_at_what_nobody_sees(language, text, normal):
    assert normalise(text, language) == normal


SENTENCES = {  # for each script, text and the languages written in it; all others take the Latin one
    "Эй! Широкая электрификация, ёлка й ї ў ѓ ә.": "ru uk bg sr mk be kk ky mn tg tt ba",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ΐ.": "el",
    "Բարև, աշխարհ։": "hy",
    "გამარჯობა, მსოფლიო!": "ka",
    "ሰላም፣ ዓለም።": "am",
    "كَتَبَ الوَلَدُ الدَّرْسَ، آ أ ئ.": "ar fa ur ps sd",
    "שָׁלוֹם עֲלֵיכֶם אַ.": "he yi",
    "मेरा नाम राम है। क़लम": "hi mr ne sa",
    "আমার নাম রাম, ড়।": "bn as",
    "ਮੇਰਾ ਨਾਂ ਰਾਮ ਹੈ।": "pa",
    "મારું નામ રામ છે.": "gu",
    "என் பெயர் ராமன் கொ.": "ta",
    "నా పేరు రాముడు.": "te",
    "ನನ್ನ ಹೆಸರು ರಾಮ ಕೋ.": "kn",
    "എന്റെ പേര് രാമൻ.": "ml",
    "මගේ නම රාම කෝ.": "si",
    "ភាសាខ្មែរ ល្អ។": "km",
    "བོད་ཡིག་གི་ཀྵ།": "bo",
    "ภาษาไทยน้ำดี ๆ": "th",
    "ພາສາລາວນ້ຳ": "lo",
    "မြန်မာဘာသာစကား။": "my",
    "今天天气很好，WTO。": "zh yue",
    "今日は「ガギ」ー天気がいい。": "ja",
    "안녕하세요, 세계!": "ko",
}
LATIN = "Ünlü: İyi ığdır çok güzel, œuvre ñandú žluťoučký ẫ ợ ṣ ŵ ħ ß thing’s 20%…"
SAMPLES = {code: LATIN for code in LANGUAGES} | {c: text for text, codes in SENTENCES.items() for c in codes.split()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_perfect_transcript_is_the_same_however_it_is_encoded(language):
    text = SAMPLES[language]
    half = len(text) // 2
    mixed = normalize("NFD", text[:half]) + normalize("NFC", text[half:])
    normal = normalise(text, language)
    assert {normalise(other, language) for other in (mixed, *(normalize(f, text) for f in ("NFC", "NFD")))} == {normal}
    if language not in LETTER_BY_LETTER and text != LATIN:
        assert len(normal.split()) == len(text.replace("་", " ").split())


@pytest.mark.parametrize("language", LETTER_BY_LETTER)
def test_letters_are_as_many_as_whispers_procedure_counts(language):
    published = BasicTextNormalizer(split_letters=True)(SAMPLES[language]).split()
    ours = normalise(SAMPLES[language], language).split()
    assert len(ours) == len(published) and [letter[0] for letter in ours] == published


def test_where_no_marks_are_the_published_normaliser_is_followed():
    for text in [text for text in SENTENCES if not is_marked(normalize("NFC", text), "ru")]:
        assert normalise(text, "sv") == BasicTextNormalizer()(text).strip()


def test_marks_that_come_in_either_order_are_one_letter():
    assert normalise("น้ำ", "th") == normalise("น\u0e4d\u0e49า", "th")


@pytest.mark.parametrize(
    ("language", "text", "marked"),
    [
        ("hi", "राम", True),
        ("ru", "за\u0301мок", True),
        ("tr", "İzmir", True),
        ("es", "está", False),
        ("es", normalize("NFD", "está"), False),
        ("es", "l´a", False),
        ("en", "cafe\u0301 q\u0301", False),
        ("ko", "한국", False),
    ],
)
def test_texts_whose_words_the_published_normaliser_would_cut_are_known(language, text, marked):
    assert is_marked(text, language) is marked
