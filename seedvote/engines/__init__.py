"""Ways to train many members, all behind ``seedvote.events.Engine``."""
