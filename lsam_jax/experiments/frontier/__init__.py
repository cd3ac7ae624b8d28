"""How much of SAM's gain each cheaper method keeps, and at which price.

`contenders` says what is compared, `regimes` on what; `study` makes the runs that a `ledger` does
not have yet, `results` and `page` say what came of them. Contenders, grids, seeds and rules were
fixed in the repository before the first run; see results/frontier/.
"""
