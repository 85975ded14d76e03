"""Documents made of synonyms, whose summary names their three concepts: a task that a tiny model learns.

40 concepts, each with a canonical word and 3 synonyms; the canonical one never stands in a document. A
document has 14 words: 3 concepts in order, each by 2 of its synonyms, at 6 places, fillers elsewhere. The
summary is the 3 canonical words in order.
"""

from __future__ import annotations

from datamodules.loading.sampling import item_generator
from datamodules.text.records import Record

_CONCEPTS = """
car auto vehicle sedan | house home cottage villa | boat ship vessel ferry | dog hound puppy terrier
cat kitten tabby feline | child kid infant toddler | doctor physician medic surgeon
teacher tutor mentor lecturer
road street avenue lane | forest woods grove jungle | river stream creek brook | mountain hill peak summit
money cash coins funds | food meal dish snack | book novel volume tome | song tune melody ballad
king monarch ruler emperor | soldier trooper warrior fighter
thief robber burglar bandit | judge magistrate referee umpire
storm tempest gale hurricane | fire blaze flame inferno | rain drizzle shower downpour
snow sleet frost blizzard
gift present donation reward | picture painting drawing portrait | letter note message memo
clock watch timer chronometer
window pane glazing porthole | chair seat stool bench | bed couch mattress bunk | knife blade dagger sword
gun rifle pistol revolver | shirt blouse tunic sweater | hat cap bonnet beret | shoe boot sandal slipper
stone rock pebble boulder | tree oak maple birch | flower rose tulip daisy | bird sparrow robin finch
"""
_FILLERS = "the a of and to in it is was for on that by this with from had but some then"
FILLERS = _FILLERS.split()
CONCEPTS = [row.split() for line in _CONCEPTS.strip().splitlines() for row in line.split(" | ")]
"""40 rows: the canonical word, then its synonyms."""
WORDS = [word for row in CONCEPTS for word in row] + FILLERS
SIZES = {"train": 300, "val": 150, "test": 150}
_LENGTH, _NAMED, _TIMES = 14, 3, 2
_PROCEDURAL = 420


def procedural(split: str, seed: int) -> list[Record]:
    """The documents of a split, a function of (seed, split)."""
    random = item_generator(_PROCEDURAL, seed, list(SIZES).index(split))
    found: list[Record] = []
    for number in range(SIZES[split]):
        chosen = random.choice(len(CONCEPTS), _NAMED, replace=False)
        places = sorted(random.choice(_LENGTH, _NAMED * _TIMES, replace=False).tolist())
        words = [FILLERS[i] for i in random.integers(len(FILLERS), size=_LENGTH)]
        named = [CONCEPTS[c][1 + s] for c in chosen for s in random.choice(3, _TIMES, replace=False)]
        for place, word in zip(places, named, strict=True):
            words[place] = word
        summary = " ".join(CONCEPTS[c][0] for c in chosen)
        found.append({"document": " ".join(words), "summary": summary, "id": f"{split}/{number}"})
    return found
