"""The language table: XTREME's 40 languages with every code that some data set or tool knows them by."""

from __future__ import annotations

from dataclasses import dataclass

from peft_stilts.registry import Registry


@dataclass(frozen=True)
class Language:
    """One language and its names elsewhere. A join between tables names the field that it uses.

    `code`: XTREME's two-letter code (ISO 639-1). `iso639_3`: the code in Tatoeba's file names (zh = cmn, ar = ara,
    fa = pes, sw = swh). `name`: English name; lower-cased it is TyDiQA's id prefix. `script`: ISO 15924.
    `family`: top-level family, 'Isolate' for Basque. `uriel_code`: the code that carries the data in URIEL
    (zh = zho, ar = ara, ms = msa, et = est, fa = fas, sw = swa). `cc100_gib`: GiB of this language in XLM-R's
    pretraining text (Conneau et al. 2020, appendix A, table 6, as transcribed in mayhewsw/multilingual-data-stats;
    zh and my are sums of two rows; 0 = not in it), None when unknown.
    """

    code: str
    iso639_3: str
    name: str
    script: str
    family: str
    uriel_code: str
    cc100_gib: float | None = None


LANGUAGES: Registry[Language] = Registry("language")
"""XTREME's 40 languages by two-letter code (google-research/xtreme README)."""

_TABLE = """
af afr Afrikaans  Latn Indo-European  afr 1.3
ar ara Arabic     Arab Afro-Asiatic   ara 28.0
bg bul Bulgarian  Cyrl Indo-European  bul 57.5
bn ben Bengali    Beng Indo-European  ben 8.4
de deu German     Latn Indo-European  deu 66.6
el ell Greek      Grek Indo-European  ell 46.9
en eng English    Latn Indo-European  eng 300.8
es spa Spanish    Latn Indo-European  spa 53.3
et est Estonian   Latn Uralic         est 6.1
eu eus Basque     Latn Isolate        eus 2.0
fa pes Persian    Arab Indo-European  fas 111.6
fi fin Finnish    Latn Uralic         fin 54.3
fr fra French     Latn Indo-European  fra 56.8
he heb Hebrew     Hebr Afro-Asiatic   heb 31.6
hi hin Hindi      Deva Indo-European  hin 20.2
hu hun Hungarian  Latn Uralic         hun 58.4
id ind Indonesian Latn Austronesian   ind 148.3
it ita Italian    Latn Indo-European  ita 30.2
ja jpn Japanese   Jpan Japonic        jpn 69.3
jv jav Javanese   Latn Austronesian   jav 0.2
ka kat Georgian   Geor Kartvelian     kat 9.1
kk kaz Kazakh     Cyrl Turkic         kaz 6.4
ko kor Korean     Hang Koreanic       kor 54.2
ml mal Malayalam  Mlym Dravidian      mal 7.6
mr mar Marathi    Deva Indo-European  mar 2.8
ms msa Malay      Latn Austronesian   msa 8.5
my mya Burmese    Mymr Sino-Tibetan   mya 2.0
nl nld Dutch      Latn Indo-European  nld 29.3
pt por Portuguese Latn Indo-European  por 49.1
ru rus Russian    Cyrl Indo-European  rus 278.0
sw swh Swahili    Latn Niger-Congo    swa 1.6
ta tam Tamil      Taml Dravidian      tam 12.2
te tel Telugu     Telu Dravidian      tel 4.7
th tha Thai       Thai Tai-Kadai      tha 71.7
tl tgl Tagalog    Latn Austronesian   tgl 3.1
tr tur Turkish    Latn Turkic         tur 20.9
ur urd Urdu       Arab Indo-European  urd 5.7
vi vie Vietnamese Latn Austro-Asiatic vie 137.3
yo yor Yoruba     Latn Niger-Congo    yor 0
zh cmn Chinese    Hans Sino-Tibetan   zho 63.5
"""

for _line in _TABLE.strip().splitlines():
    _code, _iso, _name, _script, _family, _uriel, _gib = _line.split()
    LANGUAGES.add(_code, Language(_code, _iso, _name, _script, _family, _uriel, float(_gib)))
