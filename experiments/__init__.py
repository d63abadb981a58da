"""Which runs docs/results.md is made of, and the tables that they give: ``make results``.

``*.toml`` say which runs there are, ``found/*.csv`` what they gave. Nothing here is part of the
package ``scmd``: it trains through its public functions, as anyone could.
"""
