"""Ways to train many members, all behind ``seedvote.types.Engine``."""
