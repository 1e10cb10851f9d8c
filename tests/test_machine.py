"""What glibc keeps between steps is given back when it has grown, and only then."""

from types import SimpleNamespace

from peft_stilts import machine
from peft_stilts.machine import MOST_CREPT, KeptMemory


def test_kept_memory_is_given_back_when_the_resident_set_has_crept(monkeypatch):
    trimmed, sizes = [], []
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=trimmed.append))
    kept = KeptMemory()
    kept.process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=sizes[-1]))
    for size in (1000, 900, 1000 * MOST_CREPT, 1050):
        sizes.append(int(size))
        kept.stepped()
    assert trimmed == [], "up to MOST_CREPT times the first step's nothing is done"
    sizes.append(int(1000 * MOST_CREPT) + 1)
    kept.stepped()
    assert trimmed == [0]
    for size, times in ((2000, 1), (2100, 1), (2300, 2)):       # the step after it is the new measure
        sizes.append(size)
        kept.stepped()
        assert len(trimmed) == times, size


def test_without_glibc_nothing_happens(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    kept, sizes = KeptMemory(), [10, 100]
    kept.process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=sizes.pop(0)))
    kept.stepped()
    kept.stepped()
    machine.keep_memory()
