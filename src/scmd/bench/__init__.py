"""How fast training is, beside a plain step as the released code computes it."""
