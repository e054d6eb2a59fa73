"""The same work by several hands, measured side by side: `anyformer bench NAME`.

A suite is one file, `benchmarks/suites/NAME.py`, whose `SUITE` says in data what is compared. A contender is a name and
a function from settings to `Work`, something that is done over and over. Each has a process of its own, so that none
imports or warms up for another; all stay there and take turns, A B C A B C, so that a drift of the machine's speed
falls on all alike. The file imports nothing heavy at its top: it is read to be listed, too.
"""

from anyformer.bench.suite import CPU, OURS, PEERS, Bar, Contender, Settings, Suite, Work, find, names

__all__ = ["CPU", "OURS", "PEERS", "Bar", "Contender", "Settings", "Suite", "Work", "find", "names"]
