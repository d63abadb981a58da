"""Leave one domain out: plan, run, select, compare."""
